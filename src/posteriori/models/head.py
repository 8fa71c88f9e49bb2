"""log softmax(W h)[token] of an output head, without keeping the logits.

The logits of a batch are the largest tensor of a language model's training step: one number for
every token of every position. Nothing but one log-prob a position is wanted of them, and its
gradient, dlog p/dh = W[token] - softmax(W h) W. So they are computed a few rows at a time, while
they are in the cache, and dropped. A frozen head's gradient is computed along with them; a trained
head's logits are computed a second time in the backward pass, unless all of them are but a few.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .changed import is_changed
from .kept import worked_out
from .precision import OutputHead

_ELEMENTS = 2**18
"""Logits at once, if that is no fewer than `_ROWS` rows: about as many as a core's cache holds."""

_ROWS = 128
"""Rows below which a product with a large vocabulary's weights is slow."""

_KEPT = 2**23
"""So few probabilities are kept for the backward pass of a trained head."""

_NO_UNDERFLOW = 1e-30
"""Probabilities above it are float32 numbers with all their digits."""

_KNOWN = "_posteriori_separable"
"""Where a head keeps what was found out about it."""


def separable_head(model: nn.Module) -> nn.Linear | None:
    """The output head of `model` if its logits are exactly what the head returns; else None.

    Found out by watching one token pass, because models also cap, scale or mask their logits. Only
    a float32 linear head on the CPU, without bias, is taken; not one with an adapter.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if not _is_plain(head):
        return None
    known = vars(head).get(_KNOWN)
    if known is None:
        known = vars(head)[_KNOWN] = _watch(model, head)
    return head if known else None


def _is_plain(head: object) -> TypeGuard[nn.Linear]:
    if type(head) not in (nn.Linear, OutputHead):
        return False
    assert isinstance(head, nn.Linear)
    rounds = type(head) is nn.Linear and torch.is_autocast_enabled("cpu")
    return (
        not rounds
        and head.bias is None
        and head.weight.device.type == "cpu"
        and head.weight.dtype == torch.float32
        and not is_changed(head)
    )


def _watch(model: nn.Module, head: nn.Linear) -> bool:
    returned: list[Tensor] = []

    def record(_module: nn.Module, _input: Any, output: Tensor) -> None:
        returned.append(output)

    hook = head.register_forward_hook(record)
    try:
        with torch.no_grad():
            ids = torch.zeros(1, 1, dtype=torch.long)
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        hook.remove()
    return len(returned) == 1 and out.logits is returned[0]


@contextlib.contextmanager
def left_out(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Within it, `head` returns its input (and lists it), so a model returns hidden states."""
    seen: list[Tensor] = []

    def forward(input: Tensor) -> Tensor:  # noqa: A002 - the name is nn.Linear's
        seen.append(input.to(head.weight.dtype).contiguous())
        return seen[-1]

    vars(head)["forward"] = forward
    try:
        yield seen
    finally:
        del vars(head)["forward"]


def head_log_prob(hidden_NTD: Tensor, weight_VD: Tensor, token_NT: Tensor) -> Tensor:
    """log softmax(W h)[token], float64 [N, T], from logits in the weights' precision.

    Under autocast the product of the gradient is in its dtype; that of the log-prob never is.
    """
    dtype = weight_VD.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    log_prob = _HeadLogProb.apply(hidden_NTD.flatten(0, 1), weight_VD, token_NT.flatten(), dtype)
    return log_prob.view_as(token_NT)


class _HeadLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, token_R: Tensor, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            rows = _rows(weight_VD, len(hidden_RD))
            slope = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
            rounded_VD = weight_VD
            if slope:
                rounded_VD = worked_out(weight_VD, dtype, lambda: weight_VD.to(dtype))
            log_prob_R = torch.empty(len(hidden_RD), dtype=torch.float64)
            slope_RD = torch.empty_like(hidden_RD) if slope else None
            kept = ctx.needs_input_grad[1] and len(hidden_RD) * len(weight_VD) <= _KEPT
            # Written over part by part: memory that is new to the process is slow to write to.
            logits_rV = hidden_RD.new_empty(rows, len(weight_VD))
            p_RV = hidden_RD.new_empty(len(hidden_RD) if kept else rows, len(weight_VD))
            for start in range(0, len(hidden_RD), rows):
                part = slice(start, start + rows)
                part_rV = logits_rV[: len(token_R[part])]
                p_rV = p_RV[part] if kept else p_RV[: len(part_rV)]
                torch.mm(hidden_RD[part], weight_VD.t(), out=part_rV)
                torch.softmax(part_rV, -1, out=p_rV)
                log_prob_R[part] = _log_prob(part_rV, p_rV, token_R[part])
                if slope_RD is not None:
                    mean_rD = p_rV.to(dtype) @ rounded_VD
                    torch.sub(weight_VD[token_R[part]], mean_rD, out=slope_RD[part])
            ctx.p_RV = p_RV if kept else None
        if slope_RD is not None:
            ctx.save_for_backward(slope_RD)
        else:
            ctx.save_for_backward(hidden_RD, weight_VD, token_R)
        return log_prob_R

    @staticmethod
    @once_differentiable  # which hides the names of the arguments from pyright
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        (g_R,) = grad_outputs
        if len(ctx.saved_tensors) == 1:
            (slope_RD,) = ctx.saved_tensors
            return slope_RD * g_R.to(slope_RD.dtype)[:, None], None, None, None
        hidden_RD, weight_VD, token_R = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            g_R = g_R.to(weight_VD.dtype)
            return *_both(hidden_RD, weight_VD, token_R, g_R, ctx.p_RV), None, None


def _both(
    hidden_RD: Tensor, weight_VD: Tensor, token_R: Tensor, g_R: Tensor, p_RV: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of sum g log p with respect to the hidden states and the weights.

    `p_RV` are the probabilities, where the forward pass kept them.
    """
    rows = _rows(weight_VD, len(hidden_RD))
    dh_RD, dw_VD = torch.empty_like(hidden_RD), torch.zeros_like(weight_VD)
    dlogits_RV = hidden_RD.new_empty(rows, len(weight_VD))
    for start in range(0, len(hidden_RD), rows):
        part = slice(start, start + rows)
        g_r1 = g_R[part, None]
        dlogits_rV = dlogits_RV[: len(g_r1)]
        if p_RV is None:
            torch.mm(hidden_RD[part], weight_VD.t(), out=dlogits_rV)
            torch.mul(dlogits_rV.softmax(-1), -g_r1, out=dlogits_rV)
        else:
            torch.mul(p_RV[part], -g_r1, out=dlogits_rV)
        dlogits_rV.scatter_add_(1, token_R[part, None], g_r1)
        torch.mm(dlogits_rV, weight_VD, out=dh_RD[part])
        dw_VD.addmm_(dlogits_rV.t(), hidden_RD[part])
    return dh_RD, dw_VD


def _rows(weight_VD: Tensor, total: int) -> int:
    """Rows at once: parts of equal size, because a small one is multiplied at a poor rate."""
    most = max(_ROWS, _ELEMENTS // len(weight_VD))
    parts = -(-total // most)
    return -(-total // parts)


def _log_prob(logits_rV: Tensor, p_rV: Tensor, token_r: Tensor) -> Tensor:
    """The token's log-prob, float64 [r].

    Where p underflows, log sum exp = x - log p at the largest logit x, whose p is at least 1/V.
    """
    chosen_r = p_rV.gather(1, token_r[:, None])[:, 0].double()
    if bool((chosen_r > _NO_UNDERFLOW).all()):
        return chosen_r.log()
    logit_r = logits_rV.gather(1, token_r[:, None])[:, 0].double()
    return logit_r - logits_rV.amax(-1).double() + p_rV.amax(-1).double().log()

"""log softmax(W h)[token] of an output head, without keeping the logits.

The logits of a batch are the largest tensor of a language model's training step: one number for
every token of every position. Nothing but one log-prob a position is wanted of them, and its
gradient, dlog p/dh = W[token] - sum_v p_v W_v. So they are computed for a block of the vocabulary
at a time, used while they are in the cache, and dropped: the sums over the vocabulary go on from
block to block, relative to the largest logit so far (Milakov and Gimelshein 2018, Online normalizer
calculation for softmax, arXiv 1805.02867). A frozen head's gradient is computed along with them; a
trained head's logits are computed a second time in the backward pass: on a CPU that is faster than
to write them to memory that is new to the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .matmul import add_product, product
from .weight_cache import WeightCache

_ROWS, _BLOCK = 1024, 2048
"""Rows and tokens of the vocabulary at once: the more of both, the better they are multiplied, and
so many logits still lie in a cache."""

_FEW_ROWS = 512
"""Rows at once where one block is the whole vocabulary, so that only rows are left to share its
memory."""


def head_log_prob(
    hidden_NTD: Tensor, weight_VD: Tensor, token_NT: Tensor, cache: WeightCache
) -> Tensor:
    """log softmax(W h)[token], float64 [N, T], from logits in the weights' precision.

    `cache` may have W as the gradient multiplies it. Under autocast the product of the gradient is
    in its dtype; that of the log-prob never is.
    """
    dtype = weight_VD.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    hidden_RD, token_R = hidden_NTD.flatten(0, 1), token_NT.flatten()
    log_prob = _HeadLogProb.apply(hidden_RD, weight_VD, token_R, dtype, cache)
    return log_prob.view_as(token_NT)


class _HeadLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        token_R: Tensor,
        dtype: torch.dtype,
        cache: WeightCache,
    ) -> Tensor:
        # A trained head's gradient sums over rows that g weighs: it has to wait for g.
        trained = ctx.needs_input_grad[1]
        rounded_VD = slope_RD = None
        if ctx.needs_input_grad[0] and not trained:
            rounded_VD = cache.get(weight_VD, dtype, lambda: weight_VD.to(dtype))
            slope_RD = torch.empty_like(hidden_RD)
        logits = _Logits(hidden_RD, weight_VD)
        # Log-probs are summed over a completion and subtracted from others: float64 from here on.
        log_prob_R1 = torch.empty(len(hidden_RD), 1, dtype=torch.float64)
        top_R1 = hidden_RD.new_empty(len(hidden_RD), 1)
        total_R1 = torch.empty_like(log_prob_R1)
        with torch.autocast("cpu", enabled=False):
            for rows in logits.parts():
                sums = _Sums(logits, rows, token_R[rows, None], rounded_VD)
                top_R1[rows], total_R1[rows] = sums.top_r1, sums.total_r1
                log_prob_R1[rows] = sums.log_prob_r1()
                if slope_RD is not None:
                    torch.sub(weight_VD[token_R[rows]], sums.mean_rD(), out=slope_RD[rows])
        if slope_RD is not None:
            ctx.save_for_backward(slope_RD)
        else:
            ctx.save_for_backward(hidden_RD, weight_VD, token_R, top_R1, total_R1)
        return log_prob_R1[:, 0]

    @staticmethod
    @once_differentiable  # which hides the names of the arguments from pyright
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        g_R1 = grad_outputs[0][:, None]
        if len(ctx.saved_tensors) == 1:
            (slope_RD,) = ctx.saved_tensors
            return slope_RD * g_R1.to(slope_RD.dtype), None, None, None, None
        with torch.autocast("cpu", enabled=False):
            dh_RD, dw_VD = _both(g_R1, *ctx.saved_tensors)
            return dh_RD, dw_VD, None, None, None


class _Logits:
    """W h in tiles of equal size, each written over the one before: memory that is new to the
    process is slow to write to."""

    def __init__(self, hidden_RD: Tensor, weight_VD: Tensor) -> None:
        self.hidden_RD, self.weight_VD = hidden_RD, weight_VD
        rows, tokens = len(hidden_RD), len(weight_VD)
        self.rows = _equal(rows, _ROWS if tokens > _BLOCK else _FEW_ROWS)
        self.block = _equal(tokens, _BLOCK)
        self.memory = hidden_RD.new_empty(self.rows * self.block)

    def parts(self) -> Iterator[slice]:
        """Of the rows."""
        return (slice(at, at + self.rows) for at in range(0, len(self.hidden_RD), self.rows))

    def tiles(
        self, rows: slice, token_r1: Tensor
    ) -> Iterator[tuple[Tensor, slice, Tensor, Tensor]]:
        """Logits [r, b] of a block of the vocabulary; the block; where in it each row's token is,
        and whether it is there at all."""
        hidden_rD = self.hidden_RD[rows]
        for start in range(0, len(self.weight_VD), self.block):
            block = slice(start, start + self.block)
            weight_bD = self.weight_VD[block]
            shape = len(hidden_rD), len(weight_bD)
            tile_rb = self.memory[: shape[0] * shape[1]].view(shape)
            tile_rb = product(hidden_rD, weight_bD, out_NO=tile_rb)
            # A gather needs a place in every block, also where the token is in another.
            at_r1 = (token_r1 - start).clamp(0, shape[1] - 1)
            yield tile_rb, block, at_r1, at_r1 == token_r1 - start


class _Sums:
    """sum_v exp(logit_v) = exp(top) total and sum_v exp(logit_v) W_v = exp(top) weighted."""

    def __init__(
        self, logits: _Logits, rows: slice, token_r1: Tensor, rounded_VD: Tensor | None
    ) -> None:
        """`rounded_VD` is W as the second sum multiplies it; None leaves that sum out."""
        hidden_rD = logits.hidden_RD[rows]
        self.top_r1 = hidden_rD.new_full((len(hidden_rD), 1), -torch.inf)
        self.total_r1 = torch.zeros(len(hidden_rD), 1, dtype=torch.float64)
        self.chosen_r1 = torch.zeros_like(self.top_r1)
        self.weighted_rD = torch.zeros_like(hidden_rD)
        for tile_rb, block, at_r1, is_here_r1 in logits.tiles(rows, token_r1):
            self.chosen_r1 = torch.where(is_here_r1, tile_rb.gather(1, at_r1), self.chosen_r1)
            top_r1 = torch.maximum(self.top_r1, tile_rb.amax(-1, keepdim=True))
            # What was summed relative to the old top counts less relative to the new one. In the
            # first block the old top is -inf, and exp(-inf) = 0 clears sums that are 0 anyway.
            shrunk_r1 = (self.top_r1 - top_r1).exp_()
            # In place: the tile is in the cache, and the next block overwrites it.
            exp_rb = tile_rb.sub_(top_r1).exp_()
            self.total_r1.mul_(shrunk_r1).add_(exp_rb.sum(-1, keepdim=True))
            if rounded_VD is not None:
                self.weighted_rD.mul_(shrunk_r1)
                _add_product(self.weighted_rD, exp_rb, rounded_VD[block])
            self.top_r1 = top_r1

    def log_prob_r1(self) -> Tensor:
        return self.chosen_r1.double() - self.top_r1.double() - self.total_r1.log()

    def mean_rD(self) -> Tensor:
        """sum_v p_v W_v."""
        return self.weighted_rD / self.total_r1.to(self.weighted_rD.dtype)


def _both(
    g_R1: Tensor,
    hidden_RD: Tensor,
    weight_VD: Tensor,
    token_R: Tensor,
    top_R1: Tensor,
    total_R1: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of sum g log p with respect to the hidden states and the weights, by way of
    the logits', g (1[v is the token] - p_v)."""
    dh_RD, dw_VD = torch.zeros_like(hidden_RD), torch.zeros_like(weight_VD)
    # -g p_v = (-g / total) exp(logit - top): one factor per row in place of two passes over a tile.
    scale_R1 = (-g_R1 / total_R1).to(weight_VD.dtype)
    g_R1 = g_R1.to(weight_VD.dtype)
    logits = _Logits(hidden_RD, weight_VD)
    for rows in logits.parts():
        for tile_rb, block, at_r1, is_here_r1 in logits.tiles(rows, token_R[rows, None]):
            slope_rb = tile_rb.sub_(top_R1[rows]).exp_().mul_(scale_R1[rows])
            slope_rb.scatter_add_(1, at_r1, g_R1[rows] * is_here_r1)
            add_product(dh_RD[rows], slope_rb, weight_VD[block].t())
            add_product(dw_VD[block], slope_rb.t(), hidden_RD[rows].t())
    return dh_RD, dw_VD


def _add_product(sum_rD: Tensor, exp_rb: Tensor, weight_bD: Tensor) -> None:
    """sum += exp W, multiplied in the weights' dtype and added in the sum's."""
    if weight_bD.dtype == sum_rD.dtype:
        add_product(sum_rD, exp_rb, weight_bD.t())
    else:
        sum_rD.add_(exp_rb.to(weight_bD.dtype) @ weight_bD)


def _equal(total: int, most: int) -> int:
    """The size of as few equal parts as can be of no more than `most`: a small part is multiplied
    at a poor rate."""
    parts = max(1, -(-total // most))
    return -(-total // parts)

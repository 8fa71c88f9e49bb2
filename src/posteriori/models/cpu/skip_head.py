"""Output heads whose logits can be left out of a model's pass; see `head_log_prob`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from .patched import is_patched, replaced
from .precision import OutputHead


def separable_head(model: nn.Module, facts: dict[Any, Any]) -> nn.Linear | None:
    """The output head of `model` if its logits are exactly what the head returns; else None.

    Found out by observing one token pass, because models also cap, scale or mask their logits, and
    kept among the `facts` about it. Only a float32 linear head on the CPU, without bias, is taken;
    not one with an adapter.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if not _is_plain(head):
        return None
    known = facts.get("separable head")
    if known is None:
        known = facts["separable head"] = _watch(model, head)
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
        and not is_patched(head)
    )


def _watch(model: nn.Module, head: nn.Linear) -> bool:
    returned: list[Tensor] = []
    plain = head.forward

    def record(hidden: Tensor) -> Tensor:
        returned.append(plain(hidden))
        return returned[-1]

    with torch.no_grad(), replaced({head: record}):
        ids = torch.zeros(1, 1, dtype=torch.long)
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return len(returned) == 1 and out.logits is returned[0]


@contextlib.contextmanager
def left_out(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Within it, `head`, a module of the pass's own, returns its input (and lists it), so a model
    returns hidden states."""
    seen: list[Tensor] = []

    def forward(input: Tensor) -> Tensor:  # noqa: A002 - the name is nn.Linear's
        seen.append(input.to(head.weight.dtype).contiguous())
        return seen[-1]

    with replaced({head: forward}):
        yield seen

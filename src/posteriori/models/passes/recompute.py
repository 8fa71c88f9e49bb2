"""Gradient (activation) checkpointing: a layer keeps its input alone, and is run again on the way
back.

transformers has a switch of its own, which works in training mode only; here dropout is off
whatever the mode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from posteriori.errors import ModelError
from posteriori.models.cpu.patched import replaced

Again = Callable[[], contextlib.AbstractContextManager[Any]]
"""What a layer has to be run again in."""


def recomputed(work: Callable[..., Any], *given: Any, again: Again, **named: Any) -> Any:
    """`work(*given, **named)`, of which nothing is kept but what it was given."""
    return checkpoint(
        work,
        *given,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), again()),
        **named,
    )


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers that can be run again, outermost ones alone."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inside:
            found.append(module)
            inside |= set(module.modules())
    return found


def check_recomputes(model: PreTrainedModel) -> None:
    """Raise `ModelError` for a model that does not say what its layers are."""
    if not layers_of(model):
        raise ModelError(
            f"{type(model).__name__} does not say which of its modules are layers that can be run "
            "again",
            where="gradient_checkpointing",
            hint="leave it out, and set a lower micro_batch_size or memory_gib",
        )


@contextlib.contextmanager
def recomputed_layers(model: nn.Module, again: Again) -> Iterator[None]:
    """Within it each layer of `model` keeps its input alone. A cache would be written twice, so
    passes have to do without."""

    def kept(plain: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: recomputed(plain, *given, again=again, **named)

    with replaced({layer: kept(layer.forward) for layer in layers_of(model)}):
        yield

"""Patched modules (with hooks, or a forward of their own): they are left alone, or called as they
are. And how a pass patches those that are its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

Forwards = Mapping[nn.Module, Callable[..., Any]]
"""Modules, and what each is to compute in place of its own `forward`."""


def is_patched(module: nn.Module) -> bool:
    """Whether `module` has hooks, or a `forward` that is not its class's."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


@contextlib.contextmanager
def replaced(forwards: Forwards) -> Iterator[None]:
    """Within it each of these modules computes what the plan says.

    For modules that belong to one pass alone (`models.execution.model_view`): another thread that
    calls one of them would get these numbers as well.
    """
    # A module's own `forward` (accelerate leaves one) is put back, and not taken off.
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward

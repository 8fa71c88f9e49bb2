"""Patched modules (with hooks, or a forward of their own): they are left alone, or called as they
are."""

from __future__ import annotations

from torch import nn


def is_patched(module: nn.Module) -> bool:
    """Whether `module` has hooks, or a `forward` that is not its class's."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))

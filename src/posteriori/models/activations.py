"""The tanh approximation of GELU as one operation instead of eight, forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from torch import nn
from transformers.activations import NewGELUActivation


@contextlib.contextmanager
def fused_activations(model: nn.Module) -> Iterator[None]:
    """Within it, every 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) of `model` that is written
    out in Python (GPT-2's, Phi's) is torch's own. Numbers are the same up to rounding."""
    written_out = [module for module in model.modules() if _is_written_out(module)]
    for module in written_out:
        vars(module)["forward"] = partial(nn.functional.gelu, approximate="tanh")
    try:
        yield
    finally:
        for module in written_out:
            del vars(module)["forward"]


def _is_written_out(module: nn.Module) -> bool:
    return (
        type(module) is NewGELUActivation
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
    )

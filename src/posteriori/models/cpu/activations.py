"""The tanh approximation of GELU as one operation instead of eight, forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn
from transformers.activations import NewGELUActivation

from .patched import is_patched


def written_out(model: nn.Module) -> list[nn.Module]:
    """Every 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) of `model` that is written out in
    Python (GPT-2's, Phi's)."""
    return [module for module in model.modules() if type(module) is NewGELUActivation]


@contextlib.contextmanager
def fused_activations(activations: Sequence[nn.Module]) -> Iterator[None]:
    """Within it they are torch's own; a patched one is left alone. Numbers are the same up to
    rounding."""
    untouched = [module for module in activations if not is_patched(module)]
    for module in untouched:
        vars(module)["forward"] = partial(nn.functional.gelu, approximate="tanh")
    try:
        yield
    finally:
        for module in untouched:
            del vars(module)["forward"]

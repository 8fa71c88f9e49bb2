"""The tanh approximation of GELU as one operation instead of eight, forward and backward."""

from __future__ import annotations

from functools import partial

from torch import nn
from transformers.activations import NewGELUActivation

from .patched import Forwards, is_patched


def fused_activations(model: nn.Module) -> Forwards:
    """torch's own in the place of every 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) of `model`
    that is written out in Python (GPT-2's, Phi's). A patched one is left alone."""
    # By exact type: a subclass may compute something else.
    return {
        module: partial(nn.functional.gelu, approximate="tanh")
        for module in model.modules()
        if type(module) is NewGELUActivation and not is_patched(module)
    }

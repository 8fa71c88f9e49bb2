"""Linear layers in the layout that the CPU multiplies fastest, for as long as a model is being run.

A step of sampling multiplies a few dozen rows with every matrix of the model, and a good part of
that time goes into rearranging the matrix. oneDNN can rearrange it once instead. The rearranged
copies live only inside `packed_linears`: weights may change between two calls, never within one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeGuard

import torch
from torch import Tensor, nn

from .precision import OutputHead

_LARGE = 50_000_000
"""Parameters below which a step is overhead, whatever the layout of its matrices."""

_STEPS = 12
"""Steps of sampling after which the time that packing takes has come back."""


def packing_pays(num_parameters: int, steps: int) -> bool:
    """Whether a model of that size gains from packed layers over so many steps of sampling."""
    return num_parameters >= _LARGE and steps >= _STEPS


@contextlib.contextmanager
def packed_linears(model: nn.Module, rows: int, dtype: torch.dtype) -> Iterator[None]:
    """Within it, the linear layers of `model` multiply weights laid out for batches of `rows`.

    Products are in `dtype` (the autocast's, if one is on), an `OutputHead`'s in its own. Numbers
    are those of the plain layers up to rounding. No gradients. Off the CPU nothing changes.
    """
    layers = [module for module in model.modules() if _can_be_packed(module)]
    for layer in layers:
        kept = layer.weight.dtype if isinstance(layer, OutputHead) else dtype
        vars(layer)["forward"] = _packed_forward(layer, rows, kept)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _can_be_packed(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) in (nn.Linear, OutputHead)
        and "forward" not in vars(module)
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
    )


def _packed_forward(layer: nn.Linear, rows: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), rows)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def forward(input: Tensor) -> Tensor:  # noqa: A002 - the name is nn.Linear's
        return torch.ops.mkldnn._linear_pointwise(input.to(dtype), weight, bias, "none", [], "")

    return forward

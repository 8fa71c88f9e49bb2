"""x W' + b by the library that multiplies it fastest.

torch multiplies float32 by MKL, which leaves AMD's AVX-512 unused: on Zen 5 it does less than half
the multiply-adds a second that oneDNN does. Small products stay with MKL: its calls cost less, and
oneDNN writes a kernel for every shape that it has not met of late.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .capabilities import has_amds_avx512

_SMALL = 2**25
"""Multiply-adds below which a product takes less time than to write a kernel for it (0.5 ms)."""

_KERNELS_KEPT = "128"
"""A kernel and what belongs to it take up to 0.8 MB. Of the 1,024 that oneDNN, and as many that
torch's interface to it keep, batches of ever new lengths leave gigabytes."""

# Read at the first product; what the user has set stays.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, _KERNELS_KEPT)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W' + b of x [.., I], with gradients; as `torch.nn.functional.linear` up to rounding."""
    if not _by_onednn(x, weight_OI):
        return torch.nn.functional.linear(x, weight_OI, bias_O)
    # oneDNN's operation has no derivative of its own; without gradients the detour is saved.
    if torch.is_grad_enabled():
        return _Linear.apply(x.flatten(0, -2), weight_OI, bias_O).view(*x.shape[:-1], -1)
    return _onednn(x, weight_OI, bias_O)


def product(x_NI: Tensor, weight_OI: Tensor, out_NO: Tensor | None = None) -> Tensor:
    """x W' [N, O] without gradient, perhaps written to `out_NO`."""
    if _by_onednn(x_NI, weight_OI):
        return _turned(x_NI, weight_OI)
    return torch.mm(x_NI, weight_OI.t(), out=out_NO)


def add_product(sum_NO: Tensor, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """sum += x W', without gradient."""
    if _by_onednn(x_NI, weight_OI):
        return sum_NO.add_(_turned(x_NI, weight_OI))
    return sum_NO.addmm_(x_NI, weight_OI.t())


def _by_onednn(x: Tensor, weight_OI: Tensor) -> bool:
    return (
        has_amds_avx512()
        # In bfloat16 torch goes to oneDNN by itself.
        and x.dtype == weight_OI.dtype == torch.float32
        and x.numel() * len(weight_OI) >= _SMALL
        and x.device.type == weight_OI.device.type == "cpu"
        # Autocast would round the arguments of torch's own product, and does not know this one.
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


def _onednn(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    if not (weight_OI.is_contiguous() or weight_OI.t().is_contiguous()):
        # Of a W that lies within a wider matrix it makes a product a thousand times as slow.
        weight_OI = weight_OI.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")


def _turned(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """x W', as (W x')' where that is faster: oneDNN copies a transposed x, but no transposed W."""
    if x_NI.t().is_contiguous() and x_NI.numel() > weight_OI.numel():
        return _onednn(weight_OI, x_NI).t()
    return _onednn(x_NI, weight_OI)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return _onednn(x_NI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable  # which hides the names of the arguments from pyright
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        (g_NO,) = grad_outputs
        x_NI, weight_OI = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        # A frozen layer's dW is a third of the work, and would be thrown away.
        return (
            product(g_NO, weight_OI.t()) if for_x else None,
            product(g_NO.t(), x_NI.t()) if for_weight else None,
            g_NO.sum(0) if for_bias else None,
        )

"""A linear layer with a LoRA adapter as one product, y = x W' + s (x A') B', forward and backward.

PEFT computes the adapter's two thin products as layers of their own, with casts, a scaling and a
sum around them; on a CPU these cost as much as the wide product. Here they are added in place, in
the dtype of the products, and the layers that share an input share its rounded copy. W is frozen,
so the backward pass is dx = g W + s (g B) A, dA = s (g B)' x and dB = s g' (x A').
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter on a linear layer: A [r, I], B [O, r] and s."""

    base: nn.Linear
    a_rI: Tensor
    b_Or: Tensor
    scaling: float


def plain_adapter(module: nn.Module) -> Adapter | None:
    """The one adapter that is active on `module`; None where it is anything but plain LoRA.

    That is: adapters off, merged or several at once, DoRA and other variants, biases, dropout,
    hooks, and base layers that are no plain `nn.Linear`.
    """
    if type(module) is not LoraLinear or module.disable_adapters or module.merged:
        return None
    names = [name for name in module.active_adapters if name in module.lora_A]
    base = module.base_layer
    if len(names) != 1 or type(base) is not nn.Linear:
        return None
    name = names[0]
    a, b, dropout = module.lora_A[name], module.lora_B[name], module.lora_dropout[name]
    plain = (
        name not in module.lora_variant
        and type(a) is nn.Linear
        and type(b) is nn.Linear
        and a.bias is None
        and b.bias is None
        and (isinstance(dropout, nn.Identity) or not dropout.training)
        and not any(_is_changed(part) for part in (module, base, a, b))
    )
    if not plain:
        return None
    assert isinstance(a, nn.Linear)
    assert isinstance(b, nn.Linear)
    return Adapter(base, a.weight, b.weight, float(module.scaling[name]))


def _is_changed(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def adapted_forward(adapter: Adapter, wide: Product, thin: Product, dtype: torch.dtype) -> Product:
    """The layer's forward without gradient, by two products: x W' + b in a tensor of its own, and
    x A'."""
    b_rO = (adapter.scaling * adapter.b_Or.detach()).to(dtype).t()

    def forward(input: Tensor) -> Tensor:  # noqa: A002 - the name is nn.Linear's
        x_NI = input.to(dtype).flatten(0, -2)
        return wide(x_NI).addmm_(thin(x_NI), b_rO).view(*input.shape[:-1], -1)

    return forward


@contextlib.contextmanager
def fused_adapters(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within it, plain LoRA layers on frozen CPU weights of `model` compute as said above.

    Products are in `dtype`. Values and gradients are PEFT's up to its rounding.
    """
    rounded = _Rounded(dtype)
    changed: list[nn.Module] = []
    for module in model.modules():
        adapter = plain_adapter(module)
        if adapter is not None and _is_frozen_on_cpu(adapter.base):
            vars(module)["forward"] = _fused_forward(adapter, rounded)
            changed.append(module)
    try:
        yield
    finally:
        rounded.forget()
        for module in changed:
            del vars(module)["forward"]


def _is_frozen_on_cpu(base: nn.Linear) -> bool:
    return (
        not any(parameter.requires_grad for parameter in base.parameters())
        and base.weight.device.type == "cpu"
        and base.weight.dtype in (torch.float32, torch.bfloat16)
    )


class _Rounded:
    """Inputs in the dtype of the products: layers that take one tensor share one copy."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._last: tuple[Tensor, int, Tensor] | None = None

    def forget(self) -> None:
        """The layers' graph holds this, and the last input holds the graph: a ring that nothing
        would free."""
        self._last = None

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == self.dtype or x.is_inference():
            return x.to(self.dtype)
        if self._last is None or self._last[0] is not x or self._last[1] != x._version:
            self._last = (x, x._version, x.detach().to(self.dtype))
        return self._last[2]


@dataclass(frozen=True)
class _Frozen:
    """What a layer computes with, in the dtype of the products."""

    weight_OI: Tensor
    bias_O: Tensor | None
    a_rI: Tensor
    b_Or: Tensor
    scaling: float
    rounded: _Rounded


def _fused_forward(adapter: Adapter, rounded: _Rounded) -> Product:
    dtype, bias = rounded.dtype, adapter.base.bias
    frozen = _Frozen(
        adapter.base.weight.detach().to(dtype),
        None if bias is None else bias.detach().to(dtype),
        adapter.a_rI.detach().to(dtype),
        (adapter.scaling * adapter.b_Or.detach()).to(dtype),
        adapter.scaling,
        rounded,
    )

    def forward(input: Tensor) -> Tensor:  # noqa: A002 - the name is nn.Linear's
        return _AdaptedProduct.apply(input, adapter.a_rI, adapter.b_Or, frozen)

    return forward


class _AdaptedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, a_rI: Tensor, b_Or: Tensor, frozen: _Frozen) -> Tensor:  # noqa: A002, ARG004 - A and B come in the dtype of the products as well
        # Autocast would round once more what is rounded already.
        with torch.autocast("cpu", enabled=False):
            x_NI = frozen.rounded(input).flatten(0, -2)
            h_Nr = x_NI @ frozen.a_rI.t()
            y_NO = nn.functional.linear(x_NI, frozen.weight_OI, frozen.bias_O)
            y_NO.addmm_(h_Nr, frozen.b_Or.t())
        ctx.save_for_backward(x_NI, h_Nr, frozen.weight_OI)
        ctx.frozen = frozen
        return y_NO.view(*input.shape[:-1], y_NO.shape[-1])

    @staticmethod
    @once_differentiable  # which hides the names of the arguments from pyright
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        x_NI, h_Nr, weight_OI = ctx.saved_tensors
        frozen: _Frozen = ctx.frozen
        shape = grad_outputs[0].shape[:-1]
        g_NO = grad_outputs[0].flatten(0, -2).to(weight_OI.dtype)
        dx = da_rI = db_Or = None
        with torch.autocast("cpu", enabled=False):
            gb_Nr = g_NO @ frozen.b_Or
            if ctx.needs_input_grad[0]:
                dx = (g_NO @ weight_OI).addmm_(gb_Nr, frozen.a_rI).view(*shape, -1)
            if ctx.needs_input_grad[1]:
                da_rI = (gb_Nr.t() @ x_NI).float()
            if ctx.needs_input_grad[2]:
                db_Or = (h_Nr.t() @ g_NO).t().float() * frozen.scaling
        return dx, da_rI, db_Or, None

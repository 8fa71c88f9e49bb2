"""Linear layers with LoRA adapters as one product each, y = x W' + s (x A') B', and back.

PEFT computes the adapter's two thin products as layers of their own, with casts, a scaling and a
sum around them; on a CPU these cost as much as the wide product. Here they are added in place, in
the dtype of the products, and layers that share an input share its rounded copy; where they are
known to, x A' is one product for all of them. W is frozen, so the backward pass is
dx = g W + s (g B) A, dA = s (g B)' x and dB = s g' (x A').
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .linear_groups import Products
from .lora_linear import Adapter, plain_adapter
from .matmul import add_product, linear, product
from .patched import replaced


@contextlib.contextmanager
def fused_adapters(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within it, plain LoRA layers on frozen CPU weights of `model`, whose modules are the pass's
    own, compute as said above.

    Products are in `dtype`. Values and gradients are PEFT's up to its rounding.
    """
    # One for the whole model: q, k and v are three modules, and are called with the same tensor.
    rounded = _Rounded(dtype)
    found = [(module, _fusible([module])) for module in model.modules()]
    forwards = {
        module: _fused_forward(adapters, rounded)
        for module, adapters in found
        if adapters is not None
    }
    try:
        with replaced(forwards):
            yield
    finally:
        rounded.forget()


def _fused_forward(adapters: Sequence[Adapter], rounded: _Rounded) -> Callable[[Tensor], Tensor]:
    products = _AdaptedLayers.of(adapters, rounded.dtype, rounded)

    def forward(input: Tensor) -> Tensor:  # noqa: A002 - the name is nn.Linear's
        return products(input)[0]

    return forward


def fused_products(layers: Sequence[nn.Module], dtype: torch.dtype) -> Products | None:
    """x -> what each of these layers makes of it, computed as said above with one product by all
    their A'. None where one of them is no plain LoRA layer on frozen CPU weights."""
    adapters = _fusible(layers)
    return None if adapters is None else _AdaptedLayers.of(adapters, dtype, lambda x: x.to(dtype))


def _fusible(layers: Sequence[nn.Module]) -> list[Adapter] | None:
    found = [plain_adapter(layer) for layer in layers]
    adapters = [each for each in found if each is not None and _is_frozen_on_cpu(each.base)]
    return adapters if len(adapters) == len(layers) else None


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
        # Tensors of inference mode count no versions, so a change to one would go unseen.
        if x.dtype == self.dtype or x.is_inference():
            return x.to(self.dtype)
        if self._last is None or self._last[0] is not x or self._last[1] != x._version:
            self._last = (x, x._version, x.detach().to(self.dtype))
        return self._last[2]


@dataclass(frozen=True)
class _AdaptedLayers:
    """Layers that take one input, with what they compute with in the dtype of the products.

    The A of all of them are one matrix [r, I], with `ranks` rows each.
    """

    trained: tuple[Tensor, ...]
    """A and B of each layer, as the optimiser has them."""
    weights_OI: tuple[Tensor, ...]
    biases_O: tuple[Tensor | None, ...]
    a_rI: Tensor
    b_Or: tuple[Tensor, ...]
    scalings: tuple[float, ...]
    ranks: list[int]
    rounded: Callable[[Tensor], Tensor]

    @staticmethod
    def of(
        adapters: Sequence[Adapter], dtype: torch.dtype, rounded: Callable[[Tensor], Tensor]
    ) -> _AdaptedLayers:
        def now(tensor: Tensor) -> Tensor:
            return tensor.detach().to(dtype)

        biases = [each.base.bias for each in adapters]
        return _AdaptedLayers(
            trained=tuple(part for each in adapters for part in (each.a_rI, each.b_Or)),
            weights_OI=tuple(now(each.base.weight) for each in adapters),
            biases_O=tuple(None if bias is None else now(bias) for bias in biases),
            a_rI=torch.cat([now(each.a_rI) for each in adapters]),
            # s goes into B, which is thin, and not into each output.
            b_Or=tuple(now(each.scaling * each.b_Or) for each in adapters),
            scalings=tuple(each.scaling for each in adapters),
            ranks=[len(each.a_rI) for each in adapters],
            rounded=rounded,
        )

    def __call__(self, input: Tensor) -> tuple[Tensor, ...]:  # noqa: A002 - the name is nn.Linear's
        if torch.is_grad_enabled():
            return _AdaptedProducts.apply(input, self, *self.trained)
        return self.multiply(input)[0]

    def multiply(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """x W' + b + s (x A') B' of each layer; and x and x A', which the gradient is made of."""
        # Autocast would round once more what is rounded already.
        with torch.autocast("cpu", enabled=False):
            x_NI = self.rounded(x).flatten(0, -2)
            h_Nr = product(x_NI, self.a_rI)
            outs = [
                add_product(linear(x_NI, weight_OI, bias_O), h_Ns, b_Os)
                for weight_OI, bias_O, b_Os, h_Ns in zip(
                    self.weights_OI,
                    self.biases_O,
                    self.b_Or,
                    h_Nr.split(self.ranks, dim=1),
                    strict=True,
                )
            ]
        return tuple(out.view(*x.shape[:-1], -1) for out in outs), x_NI, h_Nr


class _AdaptedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, layers: _AdaptedLayers, *_trained: Tensor) -> Any:  # noqa: A002 - A and B come in the dtype of the products as well
        outs, x_NI, h_Nr = layers.multiply(input)
        # x A' is thin, so keeping it is cheaper than to multiply again on the way back.
        ctx.save_for_backward(x_NI, h_Nr)
        ctx.layers = layers
        return outs

    @staticmethod
    @once_differentiable  # which hides the names of the arguments from pyright
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        x_NI, h_Nr = ctx.saved_tensors
        layers: _AdaptedLayers = ctx.layers
        shape = grad_outputs[0].shape[:-1]
        gs = [g.flatten(0, -2).to(x_NI.dtype) for g in grad_outputs]
        with torch.autocast("cpu", enabled=False):
            gb_Nr = torch.cat(
                [product(g_NO, b_Os.t()) for g_NO, b_Os in zip(gs, layers.b_Or, strict=True)],
                dim=1,
            )
            # The first layer's input needs none: the embeddings are frozen with the rest.
            dx = None
            if ctx.needs_input_grad[0]:
                dx_NI = product(gb_Nr, layers.a_rI.t())
                for g_NO, weight_OI in zip(gs, layers.weights_OI, strict=True):
                    add_product(dx_NI, g_NO, weight_OI.t())
                dx = dx_NI.view(*shape, -1)
            # Handed back in float32, the dtype in which the optimiser has A and B.
            das_sI = product(gb_Nr.t(), x_NI.t()).float().split(layers.ranks)
            dbs_Os = [
                product(h_Ns.t(), g_NO.t()).t().float() * scaling
                for h_Ns, g_NO, scaling in zip(
                    h_Nr.split(layers.ranks, dim=1), gs, layers.scalings, strict=True
                )
            ]
        of_layers = (part for pair in zip(das_sI, dbs_Os, strict=True) for part in pair)
        return dx, None, *of_layers

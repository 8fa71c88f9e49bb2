"""Linear layers in the layout that the CPU multiplies fastest, for as long as a model is being run.

A step of sampling multiplies a few dozen rows with every matrix of the model, and a good part of
that time goes into rearranging the matrix. oneDNN can rearrange it once instead. The rearranged
copies live only inside `packed_linears`: weights may change between two calls, never within one.
(A frozen output head's is `kept` longer.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeGuard

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from .kept import worked_out
from .lora_linear import Adapter, Products, adapted_forward, plain_adapter
from .precision import OutputHead

_LARGE = 50_000_000
"""Parameters below which a step is overhead, whatever the layout of its matrices."""

_STEPS = 12
"""Steps of sampling after which the time that packing takes has come back."""


def packing_pays(num_parameters: int, steps: int) -> bool:
    """Whether a model of that size gains from packed layers over so many steps of sampling."""
    return num_parameters >= _LARGE and steps >= _STEPS


def packed_product(
    weight_OI: Tensor, bias_O: Tensor | None, rows: int
) -> Callable[[Tensor], Tensor]:
    """x -> x W' + b with a copy of the weights that is laid out for batches of `rows`."""
    packed = worked_out(
        weight_OI,
        ("packed", rows),
        lambda: torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), rows),
    )
    bias = None if bias_O is None else bias_O.detach()
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


@contextlib.contextmanager
def packed_linears(model: nn.Module, rows: int, dtype: torch.dtype) -> Iterator[None]:
    """Within it, the linear layers of `model` multiply weights laid out for batches of `rows`.

    Products are in `dtype` (the autocast's, if one is on), an `OutputHead`'s in its own. Numbers
    are those of the plain layers up to rounding. No gradients. Off the CPU nothing changes.
    """
    with _replaced(dict(_packed_forwards(model, rows, dtype))):
        yield


@contextlib.contextmanager
def packed_head(head: nn.Module, rows: int) -> Iterator[None]:
    """As `packed_linears`, for an `OutputHead` alone; any other stays as it is."""
    packs = isinstance(head, OutputHead) and _can_be_packed(head)
    with _replaced({head: _packed_forward(head, rows, head.weight.dtype)} if packs else {}):
        yield


@contextlib.contextmanager
def _replaced(forwards: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    for module, forward in forwards.items():
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module in forwards:
            del vars(module)["forward"]


def _packed_forwards(
    model: nn.Module, rows: int, dtype: torch.dtype
) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    adapters: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, LoraLayer) and module.disable_adapters:
            adapters |= {*module.lora_A.modules(), *module.lora_B.modules()}
        adapter = plain_adapter(module)
        if adapter is not None and _can_be_packed(adapter.base):
            adapters |= set(module.modules())
            thin = packed_product(adapter.a_rI.to(dtype), None, rows)
            yield module, adapted_forward(adapter, _wide(adapter.base, rows, dtype), thin, dtype)
        elif module not in adapters and _can_be_packed(module):
            kept = module.weight.dtype if isinstance(module, OutputHead) else dtype
            yield module, _packed_forward(module, rows, kept)


def _can_be_packed(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) in (nn.Linear, OutputHead)
        and "forward" not in vars(module)
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
    )


def _packed_forward(layer: nn.Linear, rows: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    product = _wide(layer, rows, dtype)
    return lambda x: product(x.to(dtype))


def _wide(layer: nn.Linear, rows: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    weight_OI, bias = layer.weight.to(dtype), layer.bias
    if not isinstance(layer, OutputHead):
        # All layers together are as large as the model: no copy of them outlives the sampling.
        weight_OI = weight_OI.detach()
    return packed_product(weight_OI, None if bias is None else bias.to(dtype), rows)


def packed_products(layers: Sequence[nn.Module], rows: int, dtype: torch.dtype) -> Products | None:
    """x -> what each of these layers makes of it, by one packed product for all of them, and one by
    A' and one by B' for their adapters. None where one of them cannot be packed. No gradients."""
    found = [_base_and_adapter(layer) for layer in layers]
    bases = [base for base, _ in found if _can_be_packed(base)]
    if len(bases) != len(layers):
        return None
    sizes = [len(base.weight) for base in bases]
    wide = packed_product(
        torch.cat([base.weight.detach().to(dtype) for base in bases]), _bias_of(bases, dtype), rows
    )
    adapters = [adapter for _, adapter in found if adapter is not None]
    if not adapters:
        return lambda x_NI: wide(x_NI.to(dtype)).split(sizes, dim=-1)
    if len(adapters) != len(layers):
        return None
    a_rI = torch.cat([each.a_rI.detach() for each in adapters])
    # Each layer's B acts on its own part of x A'.
    b_Or = torch.block_diag(*(each.scaling * each.b_Or.detach() for each in adapters))
    thin, b_rO = packed_product(a_rI.to(dtype), None, rows), b_Or.to(dtype).t()

    def products(x_NI: Tensor) -> Sequence[Tensor]:
        x_NI = x_NI.to(dtype)
        return wide(x_NI).addmm_(thin(x_NI), b_rO).split(sizes, dim=-1)

    return products


def _base_and_adapter(layer: nn.Module) -> tuple[nn.Module, Adapter | None]:
    adapter = plain_adapter(layer)
    if adapter is not None:
        return adapter.base, adapter
    off = isinstance(layer, LoraLayer) and layer.disable_adapters and not layer.merged
    return (layer.get_base_layer() if off else layer), None


def _bias_of(layers: Sequence[nn.Linear], dtype: torch.dtype) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    return torch.cat(parts).to(dtype)

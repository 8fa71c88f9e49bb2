"""Linear layers in the layout that the CPU multiplies fastest, for as long as a model is being run.

A step of sampling multiplies a few dozen rows with every matrix of the model, and a good part of
that time goes into rearranging the matrix. oneDNN can rearrange it once instead. The rearranged
copies live only inside `packed_linears`: weights may change between two calls, never within one.
(A frozen output head's may be in a `WeightCache`.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from .capabilities import has_amds_avx512
from .linear_groups import Products
from .lora_linear import bare_if_off, plain_adapter
from .patched import replaced
from .precision import LARGE, OutputHead
from .weight_cache import WeightCache

_STEPS = {torch.bfloat16: 12, torch.float32: 33}
"""Steps of sampling after which the time that packing takes has come back: later in float32, whose
copies are twice as large and whose plain products are nearer to the packed ones where MKL does them
well (see `products`)."""


def packing_pays(num_parameters: int, steps: int, dtype: torch.dtype) -> bool:
    """Whether a model of that size gains from packed layers over so many steps of sampling."""
    if num_parameters < LARGE or dtype not in _STEPS:
        return False
    # MKL's plain products are slow on AMD's AVX-512: packing pays there as early as in bfloat16.
    return steps >= (_STEPS[torch.bfloat16] if has_amds_avx512() else _STEPS[dtype])


def packed_product(
    weight_OI: Tensor, bias_O: Tensor | None, rows: int, cache: WeightCache | None = None
) -> Callable[[Tensor], Tensor]:
    """x -> x W' + b with a copy of the weights that is laid out for batches of `rows`."""

    # The layout depends on the number of rows: it is the one that oneDNN would choose itself.
    def pack() -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), rows)

    packed = pack() if cache is None else cache.get(weight_OI, ("packed", rows), pack)
    bias = None if bias_O is None else bias_O.detach()
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


@contextlib.contextmanager
def packed_linears(
    model: nn.Module, rows: int, dtype: torch.dtype, cache: WeightCache
) -> Iterator[None]:
    """Within it, the linear layers of `model`, whose modules are the pass's own, multiply weights
    laid out for batches of `rows`.

    Products are in `dtype` (the autocast's, if one is on), an `OutputHead`'s in its own, from the
    cache where it has it. Numbers are those of the plain layers up to rounding. No gradients. Off
    the CPU nothing changes.
    """
    with replaced(dict(_packed_forwards(model, rows, dtype, cache))):
        yield


@contextlib.contextmanager
def packed_head(head: nn.Module, rows: int, cache: WeightCache) -> Iterator[None]:
    """As `packed_linears`, for an `OutputHead` alone; any other stays as it is."""
    forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    if isinstance(head, OutputHead) and _can_be_packed(head):
        forwards[head] = _packed_head(head, rows, cache)
    with replaced(forwards):
        yield


def _packed_forwards(
    model: nn.Module, rows: int, dtype: torch.dtype, cache: WeightCache
) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    done: set[nn.Module] = set()
    for module in model.modules():
        if module in done:
            continue
        if isinstance(module, OutputHead) and _can_be_packed(module):
            yield module, _packed_head(module, rows, cache)
            continue
        products = packed_products([module], rows, dtype)
        if products is not None:
            # What is inside an adapter is not multiplied by itself.
            done |= set(module.modules())
            yield module, lambda x, products=products: products(x)[0]


def _can_be_packed(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) in (nn.Linear, OutputHead)
        # What a module computes otherwise a packed product would pass over in silence.
        and "forward" not in vars(module)
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
    )


def _packed_head(head: nn.Linear, rows: int, cache: WeightCache) -> Callable[[Tensor], Tensor]:
    product = packed_product(head.weight, head.bias, rows, cache)
    return lambda x: product(x.to(head.weight.dtype))


def packed_products(layers: Sequence[nn.Module], rows: int, dtype: torch.dtype) -> Products | None:
    """x -> what each of these layers makes of it, by one packed product for all of them, and one by
    the A' of their adapters. None where one of them cannot be packed. No gradients."""
    found = [plain_adapter(layer) for layer in layers]
    adapters = [adapter for adapter in found if adapter is not None]
    under = [adapter.base for adapter in adapters] or [bare_if_off(layer) for layer in layers]
    # All or none: one product for all of them is what is gained.
    bases = [base for base in under if _can_be_packed(base)]
    if len(bases) != len(layers):
        return None
    sizes = [len(base.weight) for base in bases]
    # All layers together are as large as the model: no copy of them outlives the sampling.
    weight_OI = torch.cat([base.weight.detach().to(dtype) for base in bases])
    bias_O = _bias_of(bases, dtype)
    if not adapters:
        wide = packed_product(weight_OI, bias_O, rows)
        return lambda x: wide(x.to(dtype)).split(sizes, dim=-1)
    a_rI = torch.cat([each.a_rI.detach().to(dtype) for each in adapters])
    # Each layer's B acts on its own part of x A'; and x W' + (x A') B' = [x, x A'] [W, B]'.
    b_Or = torch.block_diag(*(each.scaling * each.b_Or.detach() for each in adapters))
    thin = packed_product(a_rI, None, rows)
    wide = packed_product(torch.cat([weight_OI, b_Or.to(dtype)], dim=1), bias_O, rows)

    def products(x: Tensor) -> Sequence[Tensor]:
        x = x.to(dtype)
        return wide(torch.cat([x, thin(x)], dim=-1)).split(sizes, dim=-1)

    return products


def _bias_of(layers: Sequence[nn.Linear], dtype: torch.dtype) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    # Layers without a bias beside some with one get zeros: one addition serves all.
    parts = [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    return torch.cat(parts).to(dtype)

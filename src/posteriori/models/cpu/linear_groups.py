"""Linear layers that take the same input, side by side: q, k and v, or gate and up.

They can share what is done to the input. `fused_lora` and `packing` are two such ways; here is the
plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .lora_linear import bare_if_off
from .matmul import linear
from .patched import is_patched

Products = Callable[[Tensor], Sequence[Tensor]]
"""x [.., I] -> what each of a few linear layers makes of it, [.., O] each."""

MakeProducts = Callable[..., Products]
"""Linear layers -> their `Products`."""


def each_alone(*layers: nn.Module) -> Products:
    """Every layer multiplies for itself, with its adapter and its hooks if it has any.

    Whether an adapter is on is asked for now, and not with every product.
    """
    ways = [_way_to(layer) for layer in layers]
    return lambda x: [way(x) for way in ways]


def _way_to(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    layer = bare_if_off(layer)
    if not is_patched(layer) and type(layer) is nn.Linear:
        return lambda x: linear(x, layer.weight, layer.bias)
    # GPT-2's layer, which has its weights the other way round.
    if not is_patched(layer) and type(layer) is Conv1D:
        return lambda x: linear(x, layer.weight.t(), layer.bias)
    return layer

"""Linear layers one by one, past the calls that lead to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..lora_linear import is_changed
from .decoder import Product


def each_alone(*layers: nn.Module) -> Product:
    """Every layer multiplies for itself, with its adapter and its hooks if it has any."""
    ways = [_way_to(layer) for layer in layers]
    return lambda x_MI: [way(x_MI) for way in ways]


def _way_to(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(layer, LoraLayer) and layer.disable_adapters and not layer.merged:
        base = layer.get_base_layer()
        return layer if is_changed(layer) else _way_to(base)
    if is_changed(layer):
        return layer
    if type(layer) is nn.Linear:
        return lambda x: nn.functional.linear(x, layer.weight, layer.bias)
    if type(layer) is Conv1D:
        return lambda x: torch.addmm(layer.bias, x, layer.weight)
    return layer

"""Plain LoRA layers of PEFT: which are, and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from .patched import is_patched


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
    # Active adapters that have no weights on this layer do not count.
    names = [name for name in module.active_adapters if name in module.lora_A]
    base = module.base_layer
    if len(names) != 1 or type(base) is not nn.Linear:
        return None
    name = names[0]
    a, b, dropout = module.lora_A[name], module.lora_B[name], module.lora_dropout[name]
    # Each of these would change the product, or be skipped by one that does not call the modules.
    plain = (
        name not in module.lora_variant
        and type(a) is nn.Linear
        and type(b) is nn.Linear
        and a.bias is None
        and b.bias is None
        and (isinstance(dropout, nn.Identity) or not dropout.training)
        and not any(is_patched(part) for part in (module, base, a, b))
    )
    if not plain:
        return None
    assert isinstance(a, nn.Linear)
    assert isinstance(b, nn.Linear)
    return Adapter(base, a.weight, b.weight, float(module.scaling[name]))


def bare_if_off(layer: nn.Module) -> nn.Module:
    """The layer under an adapter that is off and not patched; else the layer."""
    if not isinstance(layer, LoraLayer) or is_patched(cast(nn.Module, layer)):
        return layer
    off = layer.disable_adapters and not layer.merged
    return cast(nn.Module, layer.get_base_layer()) if off else layer

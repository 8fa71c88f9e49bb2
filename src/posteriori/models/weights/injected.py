"""Adapters that stand inside a transformers model, without a PEFT model around it: what
`model.add_adapter` makes, and `AutoModelForCausalLM.from_pretrained` of an adapter's directory.

Such a model computes with them, and its `save_pretrained` writes them alone.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

_LOADED = "_hf_peft_config_loaded"


def has_adapters_inside(model: Any) -> bool:
    return bool(getattr(model, _LOADED, False))


def fold_in(model: PreTrainedModel) -> PreTrainedModel:
    """`model` itself as plain weights that compute the same: what is active is added to them."""
    places = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    for name, module in places:
        layer: Any = module
        if isinstance(layer, BaseTunerLayer):
            if not layer.disable_adapters:
                layer.merge()
            plain = layer.get_base_layer()
        else:
            on = list(layer.active_adapters)
            chosen = not layer.disable_adapters and on and on[0] in layer.modules_to_save
            plain = layer.modules_to_save[on[0]] if chosen else layer.original_module
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, plain)
    setattr(model, _LOADED, False)
    vars(model).pop("peft_config", None)
    return model

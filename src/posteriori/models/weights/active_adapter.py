"""Which adapter a model computes with when it is called."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from peft import PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from posteriori.data.given_numbers import in_short
from posteriori.errors import ModelError


class _Chosen(Enum):
    ACTIVE = "the active adapter"

    def __repr__(self) -> str:
        return "ACTIVE"


Adapter = str | None | _Chosen
"""An adapter's name, None for the bare weights, or `ACTIVE`."""

ACTIVE: Final = _Chosen.ACTIVE
"""The adapter that the model itself computes with."""


def chosen_adapter(model: nn.Module, adapter: Adapter) -> str | None:
    """`adapter` by its name; None for the bare weights.

    Raises `ModelError` for the name of an adapter that is not there, and where `ACTIVE` names none:
    several adapters are on at once.
    """
    if adapter is None:
        return None
    if not isinstance(adapter, _Chosen):
        known = list(model.peft_config) if isinstance(model, PeftModel) else []
        if adapter not in known:
            raise ModelError(
                f"the model has no adapter named {in_short(adapter)}",
                hint=f"it has: {', '.join(known) or 'none'}",
            )
        return adapter
    if not isinstance(model, PeftModel) or _are_off(model):
        return None
    active = list(model.active_adapters)
    if len(active) != 1:
        raise ModelError(
            f"the model has {len(active)} adapters on at once ({', '.join(active)})",
            hint="name one, CausalLM(model, tokenizer, adapter=...), or join them by "
            "model.add_weighted_adapter",
        )
    return active[0]


def check_kind(model: Any) -> None:
    """Raise `ModelError` for what is neither a transformers model nor a PEFT model around one."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(base, PeftMixedModel):
        raise ModelError(
            "a PeftMixedModel has adapters of several kinds at once",
            hint="use a PeftModel, or fold them in by merge_and_unload()",
        )
    if not isinstance(base, PreTrainedModel):
        kind = base.__name__ if isinstance(base, type) else type(base).__name__
        raise ModelError(
            f"a {kind} is no causal language model of transformers",
            hint="load one by posteriori.load or AutoModelForCausalLM; of a wrapper, give the "
            "model inside",
        )


def _are_off(model: PeftModel) -> bool:
    """Whether its adapters are disabled, in all of its layers."""
    kinds = BaseTunerLayer | AuxiliaryTrainingWrapper
    layers: list[Any] = [module for module in model.modules() if isinstance(module, kinds)]
    return bool(layers) and all(layer.disable_adapters for layer in layers)

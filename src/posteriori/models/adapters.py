"""LoRA adapters on a shared model: the prior is the same weights with the adapter off.

PEFT changes a model in place, so after a policy's adapter has been added, the prior's `CausalLM`
and the policy's hold one and the same PEFT model. Each states which adapter it means (the prior:
none), and switches to it before every forward pass.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from transformers import PreTrainedModel

from ..config import LoraSettings
from ..errors import ModelError

_ACTIVE = "_posteriori_active_adapter"
_UNSET = "<unset>"


def activate(model: torch.nn.Module, adapter: str | None) -> None:
    """Make `model` compute with `adapter` (None: the bare weights); free when it already does."""
    if not isinstance(model, PeftModel) or getattr(model, _ACTIVE, _UNSET) == adapter:
        return
    tuner = cast(BaseTuner, model.base_model)
    if adapter is None:
        tuner.disable_adapter_layers()
    else:
        tuner.enable_adapter_layers()
        tuner.set_adapter(adapter)
    setattr(model, _ACTIVE, adapter)


def forget_active(model: torch.nn.Module) -> None:
    """Somebody else may switch adapters from here on, so the next `activate` is to be made."""
    setattr(model, _ACTIVE, _UNSET)


def add_adapter(
    model: PreTrainedModel | PeftModel, settings: LoraSettings, seed: int
) -> tuple[PeftModel, str]:
    """A new LoRA adapter (float32, starting as the identity) on `model`; returns both."""
    config = lora_config(settings, "CAUSAL_LM")
    with drawing_adapters(seed):
        if isinstance(model, PeftModel):
            name = _new_name(model)
            model.add_adapter(name, config)
            peft_model = model
        else:
            name = "policy"
            wrapped = get_peft_model(model, config, adapter_name=name)
            assert isinstance(wrapped, PeftModel)
            peft_model = wrapped
    setattr(peft_model, _ACTIVE, _UNSET)
    activate(peft_model, name)
    for parameter_name, parameter in peft_model.named_parameters():
        if parameter.requires_grad and f".{name}." in parameter_name:
            parameter.data = parameter.data.float()
    return peft_model, name


def lora_config(settings: LoraSettings, task_type: str) -> LoraConfig:
    """The settings as PEFT takes them."""
    target = settings.target_modules
    return LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),
        lora_dropout=0.0,
        target_modules=target if isinstance(target, str) else list(target),
        task_type=task_type,
    )


@contextlib.contextmanager
def drawing_adapters(seed: int) -> Iterator[None]:
    """Within it PEFT draws an adapter's weights by `seed`. Raises `ModelError` where it cannot."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers is about to drop.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        # PEFT corrects itself on GPT-2's transposed layers, and says so.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        torch.manual_seed(seed)
        try:
            yield
        except ValueError as error:
            raise ModelError(
                f"LoRA cannot be added: {error}",
                hint="set lora.target_modules to names of this model's linear layers",
            ) from error


def adapter_parameters(model: PeftModel, adapter: str) -> dict[str, torch.nn.Parameter]:
    """The parameters of one adapter, by names that do not depend on what it is called here."""
    within = f".{adapter}."
    found = {n.replace(within, "."): p for n, p in model.named_parameters() if within in n}
    if not found:
        raise ModelError(f"the model has no adapter named '{adapter}'")
    return found


def _new_name(model: PeftModel) -> str:
    number = 2
    while f"policy-{number}" in model.peft_config:
        number += 1
    return f"policy-{number}"

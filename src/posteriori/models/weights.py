"""A model's weights as a policy's: copied or adapted, listed, restored, saved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import ModelError
from . import adapters

Model = PreTrainedModel | PeftModel


def unwrapped(model: torch.nn.Module) -> Model:
    """The model itself, where a wrapper for several processes may hold it."""
    inner = model if isinstance(model, PreTrainedModel | PeftModel) else model.module
    assert isinstance(inner, PreTrainedModel | PeftModel)
    return inner


def base_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model under wrappers and adapters."""
    inner = unwrapped(model)
    base = inner.get_base_model() if isinstance(inner, PeftModel) else inner
    assert isinstance(base, PreTrainedModel)
    return base


def full_copy(model: torch.nn.Module, adapter: str | None) -> PreTrainedModel:
    """A trainable copy with float32 master weights, its adapter folded in."""
    copied = copy.deepcopy(unwrapped(model)).float()
    if isinstance(copied, PeftModel):
        # Whichever adapter is on at the moment, it is this one that gets folded in.
        copied = copied.merge_and_unload(adapter_names=[adapter]) if adapter else copied.unload()
    assert isinstance(copied, PreTrainedModel)
    copied.requires_grad_(True)
    return copied


def trained_state(model: torch.nn.Module, adapter: str | None) -> dict[str, Tensor]:
    """The adapter's tensors, or all weights where there is none; tied weights once."""
    inner = unwrapped(model)
    if adapter is not None and isinstance(inner, PeftModel):
        found = adapters.adapter_parameters(inner, adapter)
    else:
        found = dict(inner.named_parameters())
    return {name: parameter.data for name, parameter in found.items()}


def load_trained_state(
    model: torch.nn.Module, adapter: str | None, state: Mapping[str, Tensor]
) -> None:
    """Put back what `trained_state` gave, bit for bit. Raises `ModelError` if it does not fit."""
    own = trained_state(model, adapter)
    odd = sorted(own.keys() ^ state.keys())
    odd += [n for n in own if n in state and own[n].shape != state[n].shape]
    if odd:
        raise ModelError(f"the saved weights do not fit this model: '{odd[0]}' differs")
    for name, tensor in own.items():
        tensor.copy_(state[name])


def save(model: torch.nn.Module, adapter: str | None, directory: Path) -> None:
    """The model, or the adapter alone, in the format of transformers or PEFT."""
    inner = unwrapped(model)
    if not isinstance(inner, PeftModel):
        inner.save_pretrained(directory)
        return
    if adapter is None:
        raise ModelError("these are the bare weights under an adapter: nothing of theirs is new")
    inner.save_pretrained(str(directory), selected_adapters=[adapter])
    # PEFT puts an adapter with a name of its own into a sub-folder, where nobody looks for it.
    nested = directory / adapter
    if nested.is_dir():
        for file in nested.iterdir():
            file.replace(directory / file.name)
        nested.rmdir()

"""A model's weights as a policy's: copied or adapted, listed, restored, saved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import ModelError
from . import adapters

Model = PreTrainedModel | PeftModel


def base_model(model: Model) -> PreTrainedModel:
    """The transformers model under the adapters."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base


def own_copy(model: Model) -> Model:
    """A copy that shares nothing with `model`, whatever a trainer has wrapped around its `forward`:
    a wrapper would go on calling the original, with the original's weights."""
    copied = copy.deepcopy(model)
    for wrapped in (copied, base_model(copied)):
        vars(wrapped).pop("forward", None)
    return copied.eval()


def full_copy(model: Model, adapter: str | None) -> PreTrainedModel:
    """A trainable copy with float32 master weights, its adapter folded in."""
    copied = own_copy(model).float()
    if isinstance(copied, PeftModel):
        # Whichever adapter is on at the moment, it is this one that gets folded in.
        copied = copied.merge_and_unload(adapter_names=[adapter]) if adapter else copied.unload()
    assert isinstance(copied, PreTrainedModel)
    copied.requires_grad_(True)
    return copied


def trained_state(model: Model, adapter: str | None) -> dict[str, Tensor]:
    """The adapter's tensors, or all weights where there is none; tied weights once."""
    if adapter is not None and isinstance(model, PeftModel):
        found = adapters.adapter_parameters(model, adapter)
    else:
        found = dict(model.named_parameters())
    return {name: parameter.data for name, parameter in found.items()}


def load_trained_state(model: Model, adapter: str | None, state: Mapping[str, Tensor]) -> None:
    """Put back what `trained_state` gave, bit for bit. Raises `ModelError` if it does not fit."""
    own = trained_state(model, adapter)
    odd = sorted(own.keys() ^ state.keys())
    odd += [n for n in own if n in state and own[n].shape != state[n].shape]
    if odd:
        raise ModelError(f"the saved weights do not fit this model: '{odd[0]}' differs")
    for name, tensor in own.items():
        tensor.copy_(state[name])


def save(model: Model, adapter: str | None, directory: Path) -> None:
    """The model, or the adapter alone, in the format of transformers or PEFT.

    Without PEFT's README.md, a form with nothing filled in; one that is there stays as it is.
    """
    if not isinstance(model, PeftModel):
        model.save_pretrained(directory)
        return
    if adapter is None:
        raise ModelError("these are the bare weights under an adapter: nothing of theirs is new")
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory, prefix=".incoming-") as incoming:
        model.save_pretrained(incoming, selected_adapters=[adapter])
        # PEFT puts an adapter with a name of its own into a sub-folder, where nobody looks for it.
        nested = Path(incoming) / adapter
        for file in (nested if nested.is_dir() else Path(incoming)).iterdir():
            if file.name != "README.md":
                file.replace(directory / file.name)

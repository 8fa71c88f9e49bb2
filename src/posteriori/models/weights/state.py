"""A model's weights as a policy's: copied or adapted, listed, restored, saved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from posteriori.distributed.sharding import is_sharded, put
from posteriori.errors import ModelError

from . import adapters, base_fingerprint
from .facts import share_facts
from .injected import fold_in, has_adapters_inside

Model = adapters.Model


def base_model(model: Model) -> PreTrainedModel:
    """The transformers model under the adapters."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base


def bare_weights(model: Model) -> dict[str, Tensor]:
    """The tensors under the adapters, by the names that they have without any."""
    return {name: tensor.detach() for name, tensor in plain_names(model).items()}


def plain_names(model: Model) -> dict[str, Tensor]:
    """The same, as the model's own parameters and buffers."""
    found = base_model(model).state_dict(keep_vars=True)
    if not isinstance(model, PeftModel):
        return found
    names = tuple(f".{name}." for name in model.peft_config)
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in found.items()
        if not any(each in name for each in names)
    }


def same_base(one: Model, other: Model) -> bool:
    """Whether two models have the same weights under their adapters."""
    mine, theirs = bare_weights(one), bare_weights(other)
    return mine.keys() == theirs.keys() and all(
        each is theirs[name]
        or each.data_ptr() == theirs[name].data_ptr()
        or (each.shape == theirs[name].shape and torch.equal(each, theirs[name].to(each)))
        for name, each in mine.items()
    )


def own_copy(model: Model) -> Model:
    """A copy that shares nothing with `model`, whatever a trainer has wrapped around its `forward`:
    a wrapper would go on calling the original, with the original's weights."""
    copied = copy.deepcopy(model)
    for wrapped in (copied, base_model(copied)):
        vars(wrapped).pop("forward", None)
    share_facts(base_model(copied), base_model(model))
    return copied.eval()


def quantisation(model: Model) -> str | None:
    """How the weights are quantised, in a word; None where they are plain numbers."""
    base = base_model(model)
    if getattr(base, "is_quantized", False):
        method = getattr(base, "quantization_method", None)
        return str(getattr(method, "value", method) or "quantised")
    for module in base.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if not weight.is_floating_point():
            return str(weight.dtype).removeprefix("torch.")
        if type(weight).__module__.startswith("torchao"):
            return "torchao"
    return None


def check_not_sharded(model: Model) -> None:
    """Raise `ModelError` for weights that are cut over processes: a policy is made of whole ones,
    and then cut."""
    if is_sharded(model):
        raise ModelError(
            "the model's weights are cut over processes, and a policy is made of whole ones",
            hint='load the model again, and write sharding="fsdp"; or go on with policy="full" and '
            "start= the run's directory",
        )


def check_trainable(model: Model, kind: str) -> None:
    """Raise `ModelError` for quantised weights that are to be trained themselves (a copy in float32
    would be another distribution), or below an adapter that PEFT cannot put on them."""
    method = quantisation(model)
    quantizer = getattr(base_model(model), "hf_quantizer", None)
    if kind == "lora" and quantizer is not None and quantizer.is_trainable:
        if model.device.type == "cpu" and getattr(base_model(model), "is_loaded_in_4bit", False):
            raise ModelError(
                "the 4-bit product of bitsandbytes has no gradient on the CPU",
                hint='train on a GPU, or load the model with quantization="8bit"',
            )
        return
    if method is not None:
        raise ModelError(
            f"the model's weights are quantised ({method}): a policy trained on them could not be "
            "saved as what it is",
            hint='use policy="lora" on a model that posteriori.load(path, quantization=...) has '
            "loaded, or train on plain weights: model.dequantize()",
        )


def without_fused_experts(model: Model) -> None:
    """A mixture of experts multiplies expert by expert, which torch can do in every dtype."""
    base = base_model(model)
    if base._can_set_experts_implementation():
        base.set_experts_implementation("eager")


def full_copy(model: Model, adapter: str | None) -> PreTrainedModel:
    """A trainable copy with float32 master weights (float64 stays), its adapter folded in."""
    copied = own_copy(model)
    if copied.dtype != torch.float64:
        copied = copied.float()
    if isinstance(copied, PeftModel):
        # Whichever adapter is on at the moment, it is this one that gets folded in.
        if copied.active_peft_config.is_prompt_learning:
            raise ModelError(
                "a prompt-tuned or prefix-tuned model cannot be trained further: its prompt cannot "
                "be folded into the weights",
                hint="train its base model",
            )
        copied = copied.merge_and_unload(adapter_names=[adapter]) if adapter else copied.unload()
    assert isinstance(copied, PreTrainedModel)
    if has_adapters_inside(copied):
        copied = fold_in(copied)
    copied.requires_grad_(True)
    return copied


def trained_state(model: Model, adapter: str | None) -> dict[str, Tensor]:
    """The adapter's tensors, or all weights where there is none; tied weights once."""
    if adapter is not None:
        found = adapter_parameters(model, adapter)
    else:
        found = dict(model.named_parameters())
    return {name: parameter.data for name, parameter in found.items()}


def adapter_parameters(model: Model, adapter: str) -> dict[str, nn.Parameter]:
    """Those of one adapter, by names that do not depend on what it is called here."""
    if not isinstance(model, PeftModel):
        raise ModelError(f"the model has no adapter named '{adapter}'")
    return adapters.adapter_parameters(model, adapter)


@torch.no_grad()
def load_trained_state(model: Model, adapter: str | None, state: Mapping[str, Tensor]) -> None:
    """Put back what `trained_state` gave, bit for bit. Raises `ModelError` if it does not fit."""
    own = trained_state(model, adapter)
    odd = sorted(own.keys() ^ state.keys())
    odd += [n for n in own if n in state and own[n].shape != state[n].shape]
    if odd:
        raise ModelError(f"the saved weights do not fit this model: '{odd[0]}' differs")
    for name, tensor in own.items():
        put(tensor, state[name])


def save(model: Model, adapter: str | None, directory: Path) -> None:
    """The model, or the adapter alone, in the format of transformers or PEFT.

    An adapter goes with a fingerprint of its base. Where its base is not what its path holds (it
    was merged, resized, quantised or changed in memory), an adapter would be put on other weights
    when it is loaded: the whole model is saved instead, the adapter folded in. Without PEFT's
    README.md, a form with nothing filled in; one that is there stays as it is.
    """
    if not isinstance(model, PeftModel):
        _save_whole(model, directory)
        return
    if adapter is None:
        raise ModelError("these are the bare weights under an adapter: nothing of theirs is new")
    base = base_model(model)
    if quantisation(model) is not None:
        # Folded in, the adapter would be rounded to the steps of the quantised weights.
        _check_has_path(base)
    elif not base_fingerprint.is_what_its_path_holds(base):
        _save_whole(full_copy(model, adapter), directory)
        return
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory, prefix=".incoming-") as incoming:
        model.save_pretrained(incoming, selected_adapters=[adapter])
        # PEFT puts an adapter with a name of its own into a sub-folder, where it is not looked for.
        nested = Path(incoming) / adapter
        saved = nested if nested.is_dir() else Path(incoming)
        base_fingerprint.write(base, saved)
        for file in saved.iterdir():
            if file.name != "README.md":
                file.replace(directory / file.name)


def _check_has_path(base: PreTrainedModel) -> None:
    if not str(base.config.name_or_path or ""):
        raise ModelError(
            "an adapter on quantised weights is saved beside the path of its base, and the base "
            "has none",
            hint="load the base with posteriori.load(path, quantization=...)",
        )


def _save_whole(model: PreTrainedModel, directory: Path) -> None:
    """An adapter that was saved there before would be loaded in the model's place."""
    if has_adapters_inside(model):
        model = fold_in(cast(PreTrainedModel, own_copy(model)))
    model.save_pretrained(directory)
    for name in ("adapter_config.json", "adapter_model.safetensors", base_fingerprint.FILE):
        (directory / name).unlink(missing_ok=True)

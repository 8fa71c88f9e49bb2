"""Which weights an adapter was trained on: written beside it, and checked before it is put on.

The same adapter on other weights is another policy, and nothing in PEFT's files shows it. A tensor
is compared in the precision that it had in training, whatever the precision it is loaded in.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from posteriori.data.formats.json_object import read_object
from posteriori.distributed.sharding import whole
from posteriori.errors import ModelError
from posteriori.models.transformers_loading import loading

FILE = "base_fingerprint.json"
"""Beside adapter_config.json: the base's tensors by name, each [dtype, shape, SHA-256]."""

Fingerprint = dict[str, list]

_WRAPPERS = re.compile(r"\.(base_layer|original_module)(?=\.)")
"""What PEFT puts into a parameter's name, once for every wrapper around its module."""


def plain_parameters(base: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model without those of adapters, by the names it has without them."""
    of_adapters: set[int] = set()
    for module in base.modules():
        if isinstance(module, BaseTunerLayer):
            for name in module.adapter_layer_names:
                held = getattr(module, name, None)
                if isinstance(held, nn.Module):
                    of_adapters |= {id(parameter) for parameter in held.parameters()}
        elif isinstance(module, AuxiliaryTrainingWrapper):
            kept = {id(parameter) for parameter in module.original_module.parameters()}
            of_adapters |= {id(p) for p in module.parameters()} - kept
    return {
        _WRAPPERS.sub("", name): parameter.data
        for name, parameter in base.named_parameters()
        if id(parameter) not in of_adapters
    }


def fingerprint(base: nn.Module) -> Fingerprint:
    """Of every tensor of the base model its dtype, shape and SHA-256."""
    return {
        name: [_name(tensor.dtype), list(tensor.shape), _digest(tensor)]
        for name, tensor in plain_parameters(base).items()
    }


def is_what_its_path_holds(base: PreTrainedModel) -> bool:
    """Whether loading the model's `name_or_path` again gives these weights. Reads them all."""
    path = str(base.config.name_or_path or "")
    if not path:
        return False
    try:
        with loading() as options:
            held = AutoModelForCausalLM.from_pretrained(path, dtype=_widest(base), **options)
    except Exception:  # what cannot be loaded now would not be found later either
        return False
    mine, theirs = plain_parameters(base), plain_parameters(held)
    return mine.keys() == theirs.keys() and all(
        mine[name].shape == other.shape
        and torch.equal(whole(mine[name]).cpu(), other.to(mine[name].dtype))
        for name, other in theirs.items()
    )


def _widest(base: nn.Module) -> torch.dtype:
    """In which its path can be read to be compared: not in float32 where that is twice the memory
    for nothing."""
    dtypes = {parameter.dtype for parameter in plain_parameters(base).values()}
    return dtypes.pop() if dtypes in ({torch.bfloat16}, {torch.float16}) else torch.float32


def write(base: PreTrainedModel, directory: Path) -> None:
    told: dict[str, Any] = {"tensors": fingerprint(base)}
    quantised = getattr(base.config, "quantization_config", None)
    if quantised is not None:
        told["quantization"] = quantised if isinstance(quantised, dict) else quantised.to_dict()
    text = json.dumps(told, indent=1, default=str)
    (directory / FILE).write_text(text + "\n", encoding="utf-8")


def check(base: nn.Module, adapter: Path, path: str) -> None:
    """Refuse a base model other than the one that the adapter in `adapter` was trained on.

    An adapter of other programs has no fingerprint, and is taken. Raises `ModelError`.
    """
    file = adapter / FILE
    if not file.is_file():
        return
    try:
        tensors: Fingerprint = read_object(file)["tensors"]
        wanted = {name: (str(d), list(shape), str(h)) for name, (d, shape, h) in tensors.items()}
        dtypes = {name: _dtype(dtype) for name, (dtype, _, _) in wanted.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the fingerprint of the adapter's base is damaged: {error}",
            where=str(file),
            hint="copy the adapter's directory again, whole",
        ) from error
    found = plain_parameters(base)
    odd = sorted(found.keys() ^ wanted.keys())
    for name, (_, shape, digest) in wanted.items():
        if odd:
            break
        tensor = found[name]
        if list(tensor.shape) != shape or _digest(tensor.to(dtypes[name])) != digest:
            odd.append(name)
    if odd:
        raise ModelError(
            f"the adapter '{adapter}' was trained on other weights than those at '{path}': "
            f"'{odd[0]}' differs",
            hint="say where its own base model is: posteriori.load(adapter, base=...)",
        )


def _digest(tensor: Tensor) -> str:
    own: Any = whole(tensor.detach())
    if type(own).__module__.startswith("torchao"):
        own = own.dequantize()
    flat = own.cpu().contiguous().flatten()
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"'{name}' is no dtype")
    return found

"""A model whose weights are cut over processes, as the plain model that it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posteriori.distributed.sharding import is_sharded, whole
from posteriori.distributed.world import is_first

from . import adapters, state
from .state import Model, base_model, plain_names


def save(
    model: Model, adapter: str | None, place: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """`state.save`, and the tokenizer. Of a model that is cut over processes the first writes."""
    whole_one = whole_model(model, adapter) if is_sharded(model) else model
    if whole_one is None:
        return
    # transformers says in its log that this is a file, and saves nothing.
    place.mkdir(parents=True, exist_ok=True)
    state.save(whole_one, adapter, place)
    tokenizer.save_pretrained(place)


def whole_model(model: Model, adapter: str | None) -> Model | None:
    """A copy of it on the CPU of the first process, to be saved, and None in the others. All have
    to ask for it."""
    keep = is_first()
    weights = _gathered(plain_names(model), keep)
    own = {}
    if adapter is not None:
        assert isinstance(model, PeftModel)
        own = _gathered(adapters.adapter_parameters(model, adapter), keep)
    if not keep:
        return None
    plain = _filled(base_model(model), weights)
    if adapter is None:
        return plain
    assert isinstance(model, PeftModel)
    with adapters.drawing_adapters(0):
        adapted = get_peft_model(plain, model.peft_config[adapter], adapter_name=adapter)
    assert isinstance(adapted, PeftModel)
    for name, parameter in adapters.adapter_parameters(adapted, adapter).items():
        parameter.data = own[name]
    return adapted.eval()


def _gathered(tensors: dict[str, Any], keep: bool) -> dict[str, Tensor]:
    """One tensor at a time; a tensor that has several names stays one."""
    found: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            all_of_it = whole(tensor.detach())
            seen[id(tensor)] = all_of_it.cpu() if keep else all_of_it.new_empty(0)
        found[name] = seen[id(tensor)]
    return found


def _filled(base: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """A model of the same class with these weights. What is no weight (positions' frequencies)
    stays without numbers: it is made anew when the model is loaded."""
    plain_class: Any = next(
        each
        for each in type(base).__mro__
        if not each.__module__.startswith("torch.distributed.")
        and not each.__name__.startswith("FSDP")
    )
    with torch.device("meta"):
        plain = plain_class(base.config)
    plain.load_state_dict(weights, strict=False, assign=True)
    plain.tie_weights()
    plain.generation_config = base.generation_config
    return plain.eval()

"""What a target is made of, as one SHA-256 per part, so that a run is resumed for no other one."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from pydantic import BaseModel
from torch import Tensor

from posteriori.core.prompted import Prompted
from posteriori.core.protocols import LanguageModel
from posteriori.core.target import Target
from posteriori.distributed.sharding import whole
from posteriori.models.causal import CausalLM
from posteriori.models.tabular import TabularLM
from posteriori.models.weights.adapters import adapter_parameters
from posteriori.models.weights.state import bare_weights

from .code_digest import code_parts, is_library, settings_of, values_read

_DEEPEST = 12
_NOT_SETTINGS = frozenset(("name", "path", "counts", "target", "post", "batch_size", "embed"))
"""Attributes of our own evidence that change nothing about the target, or change while it is
used."""


def fingerprint(
    target: Target, held_out: Target | None = None, start: LanguageModel | None = None
) -> dict[str, str]:
    """A digest for each part of `target`, of the prompts that judge, and of the model that the
    policy starts as where it is another than the prior.

    The prior by its weights, evidence by its settings and the code of its functions. Where a model
    lies, and on which device, does not count.
    """
    parts: dict[str, Any] = {
        "prior": target.prior,
        "prompts": list(target.prompts),
        "columns": dict(target.columns),
        "max_new_tokens": target.max_new_tokens,
        "temper": target.temper,
    }
    if held_out is not None:
        parts["held-out prompts"] = [list(held_out.prompts), dict(held_out.columns)]
    if start is not None:
        parts["start"] = start
    for number, evidence in enumerate(target.evidence, start=1):
        whose = f"evidence {number} ({type(evidence).__name__})"
        parts[whose] = type(evidence).__qualname__
        if is_library(type(evidence).__module__):
            parts |= {f"{name} of {whose}": each for name, each in _settings_of_ours(evidence)}
        else:
            parts[whose] = evidence
    return {name: digest(value) for name, value in parts.items()}


def digest(value: Any) -> str:
    """SHA-256 of a value: data by what it holds, functions by what they compute."""
    hasher = _Hasher()
    hasher.add(value, 0)
    return hasher.sha.hexdigest()


def _settings_of_ours(evidence: Any) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(evidence).items()):
        if name == "_answers" or not (name.startswith("_") or name in _NOT_SETTINGS):
            yield {"fn": "function", "fns": "functions"}.get(name, name.strip("_")), value


class _Hasher:
    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        # The values are held: one that is made on the way and gone may give its id to the next.
        self.seen: dict[int, Any] = {}

    def say(self, *parts: Any) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self.sha.update(len(data).to_bytes(8, "big") + data)

    def add(self, value: Any, depth: int) -> None:
        kind = type(value)
        if value is None or kind in (bool, int, float, complex, str, bytes):
            self.say(kind.__name__, value if kind is bytes else repr(value))
        elif depth > _DEEPEST or id(value) in self.seen:
            self.say("again", kind.__qualname__)
        else:
            self.seen[id(value)] = value
            self._add(value, depth + 1)
            if isinstance(value, list | tuple | dict | set | frozenset):
                # Twice the same container is no circle.
                del self.seen[id(value)]

    def _add(self, value: Any, depth: int) -> None:
        kind = type(value)
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self.say("array", value.dtype, value.shape, np.ascontiguousarray(value).tobytes())
        elif isinstance(value, np.generic):
            self.say(kind.__name__, repr(value))
        elif isinstance(value, Mapping):
            self._items("mapping", value.items(), depth)
        elif isinstance(value, list | tuple):
            self.say("list", len(value))
            for each in value:
                self.add(each, depth)
        elif isinstance(value, set | frozenset):
            self.say("set", *sorted(map(repr, value)))
        elif isinstance(value, CausalLM | Prompted | TabularLM):
            self._model(value, depth)
        elif isinstance(value, torch.nn.Module):
            self.say("module", kind.__qualname__)
            self._items("tensors", value.state_dict().items(), depth)
        elif isinstance(value, BaseModel):
            self._items(kind.__qualname__, value.model_dump().items(), depth)
        elif isinstance(value, re.Pattern):
            self.say("pattern", value.pattern, value.flags)
        elif isinstance(value, type):
            self._class(value, depth)
        elif callable(value):
            self._callable(value, depth)
        else:
            self._object(value, depth)

    def _tensor(self, tensor: Tensor) -> None:
        own = whole(tensor.detach())
        own = own.dequantize() if own.is_quantized else own
        data = own.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self.say("tensor", own.dtype, tuple(own.shape), data.tobytes())

    def _items(self, what: str, items: Any, depth: int) -> None:
        self.say(what)
        for name, value in sorted(items, key=lambda item: str(item[0])):
            self.say(name)
            self.add(value, depth)

    def _model(self, lm: CausalLM | Prompted | TabularLM, depth: int) -> None:
        self.say(type(lm).__name__)
        if isinstance(lm, Prompted):
            self.add(lm.lm, depth)
            self.add(lm.prefix, depth)
            return
        self._items("weights", _weights(lm).items(), depth)
        self.say(lm.eos_token_ids)
        if isinstance(lm, TabularLM):
            self.say(lm.prompts, lm.vocabulary)
            return
        self.say(lm.compute_dtype, lm.warp, getattr(lm.tokenizer, "chat_template", None))
        self._items("tokens", lm.tokenizer.get_vocab().items(), depth)

    def _class(self, cls: type, depth: int) -> None:
        self.say("class", cls.__qualname__)
        if is_library(cls.__module__):
            return
        for base in cls.__bases__:
            self.add(base, depth)
        for name, member in sorted(vars(cls).items()):
            if not name.startswith("__") or isinstance(member, FunctionType):
                self.say(name)
                self.add(getattr(member, "__func__", member), depth)

    def _callable(self, fn: Any, depth: int) -> None:
        if isinstance(fn, functools.partial):
            self.say("partial")
            for each in (fn.func, fn.args, fn.keywords):
                self.add(each, depth)
        elif isinstance(fn, MethodType):
            self.add(fn.__func__, depth)
            self.add(fn.__self__, depth)
        elif isinstance(fn, FunctionType):
            self.say("function")
            if is_library(fn.__module__):
                self.say(fn.__qualname__)
            else:
                for part in code_parts(fn.__code__):
                    self.add(part, depth)
            for name, value in values_read(fn):
                if is_library(fn.__module__) and name in fn.__globals__:
                    continue
                self.say(name)
                self.add(value, depth)
        elif isinstance(fn, BuiltinFunctionType):
            self.say("builtin", fn.__qualname__)
        else:
            self._object(fn, depth)

    def _object(self, value: Any, depth: int) -> None:
        """An object of a user's class by its class and settings; of ours by its settings; of a
        library by its class and what it wraps."""
        cls = type(value)
        self.add(cls, depth)
        self.add(getattr(value, "__wrapped__", None), depth)
        if cls.__module__.partition(".")[0] == "posteriori":
            items = _settings_of_ours(value) if hasattr(value, "__dict__") else ()
        else:
            items = () if is_library(cls.__module__) else settings_of(value)
        for name, each in items:
            self.say(name)
            self.add(each, depth)


def _weights(lm: CausalLM | TabularLM) -> dict[str, Tensor]:
    """The tensors of the distribution itself: adapters that stand on the same weights for others
    (the policies of earlier runs) are no part of it."""
    if isinstance(lm, TabularLM):
        return lm.state_dict()
    plain = bare_weights(lm.model)
    if not isinstance(lm.model, PeftModel):
        return plain
    own = {} if lm.adapter is None else adapter_parameters(lm.model, lm.adapter)
    return plain | {f"adapter {name}": parameter.data for name, parameter in own.items()}

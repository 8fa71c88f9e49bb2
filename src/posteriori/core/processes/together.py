"""Verbs that several processes do together, which have to be called alike."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from posteriori.core.hooks import HasModule
from posteriori.core.target import Target
from posteriori.data.plain_values import is_mapping, is_sequence
from posteriori.distributed.environment import require_one
from posteriori.distributed.sharding import is_cut
from posteriori.distributed.world import together

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

_PER_TENSOR = 8
"""Weights of each tensor by which two models are compared."""


def on_every_process(function: AnyFunction) -> AnyFunction:
    """A verb: with several processes all have to call it, with the same arguments.

    Raises `ConfigError` in all of them where they do not.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        def like() -> str:
            given = inspect.signature(function).bind(*arguments, **settings).arguments
            return "\n".join(f"{name}={_words(value)}" for name, value in given.items())

        with together(function.__name__, like):
            return function(*arguments, **settings)

    return call  # pyright: ignore[reportReturnType]


def on_one_process(function: AnyFunction) -> AnyFunction:
    """What one process does: of several, each would do all of it.

    Raises `DistributedError` where several were launched.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        hint = "call it before, without torchrun or accelerate launch, and load its result"
        require_one(function.__name__, hint)
        return function(*arguments, **settings)

    return call  # pyright: ignore[reportReturnType]


def _words(value: Any) -> str:
    """What of an argument has to be the same everywhere: plain values, a target's prompts, a
    model's weights; of other objects the class."""
    if value is None or isinstance(value, str | int | float | Path):
        return repr(value)
    if isinstance(value, Target):
        asked = f"max_new_tokens={value.max_new_tokens}, prompts={list(value.prompts)!r}"
        columns = {name: _words(each) for name, each in value.columns.items()}
        return f"{_words(value.prior)}, {asked}, columns={columns}, temper={value.temper}"
    if is_mapping(value):
        return "{" + ", ".join(f"{k!r}: {_words(each)}" for k, each in value.items()) + "}"
    if is_sequence(value) and isinstance(value, list | tuple):
        return "[" + ", ".join(map(_words, value)) + "]"
    return f"{type(value).__name__}{_weights(value)}"


def _weights(value: Any) -> str:
    module = value.module if isinstance(value, HasModule) else None
    if not isinstance(module, torch.nn.Module):
        return ""
    total = 0.0
    for parameter in module.parameters():
        if parameter.is_floating_point() and not is_cut(parameter):
            total += float(parameter.detach().reshape(-1)[:_PER_TENSOR].double().sum())
    return f" of weights {total!r}"

"""Values from outside as strict settings, or one `ConfigError` about what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ValidationError,
)

from posteriori.errors import ConfigError, did_you_mean

from .trl_names import name_here

SettingsT = TypeVar("SettingsT", bound=BaseModel)


_SHOWN = 60
"""Characters of a refused value that its error shows."""


def parse(model: type[SettingsT], values: Mapping[str, Any], *, where: str) -> SettingsT:
    """`values` as a `model`, or one `ConfigError` about the first thing that is wrong with them."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        # A misspelt key is the cause where another one is missing, so it is reported first.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        raise ConfigError(_explain(model, first), where=where) from error


def _explain(model: type[BaseModel], error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        here = name_here(str(error["loc"][-1]))
        if here is not None:
            return f"unknown key '{path}'; {here}"
        return f"unknown key '{path}'; {did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"'{path}' is missing; write {path} = ..."
    shown = repr(error.get("input"))
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    table = ".".join(part for part in error["loc"] if isinstance(part, str))
    if error["type"] in ("model_type", "list_type") and _fields_at(model, error["loc"]):
        several = error["type"] == "list_type" or not isinstance(error["loc"][-1], str)
        message = f"write it as a table, {f'[[{table}]]' if several else f'[{table}]'}"
    return f"'{path}' = {shown} is not valid: {message}"


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed in the table which `loc` points at."""
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)

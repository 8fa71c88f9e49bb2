"""Values from outside as strict settings, or one `ConfigError` about what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from posteriori.data.trl_names import name_here
from posteriori.errors import ConfigError, did_you_mean

from .plain_numbers import plain_numbers
from .refused import REFUSED, UNKNOWN_KEY, fields_at

SettingsT = TypeVar("SettingsT", bound=BaseModel)


_SHOWN = 60
"""Characters of a refused value that its error shows."""


def parse(model: type[SettingsT], values: Mapping[str, Any], *, where: str) -> SettingsT:
    """`values` as a `model`, or one `ConfigError` about the first thing that is wrong with them."""
    for value in values.values():
        if type(value).__module__ == "numpy":
            values = plain_numbers(values)
            break
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise config_error(model, error, where) from error


def config_error(model: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    """What is wrong with values for a `model`, in a line."""
    # A misspelt key is the cause where another one is missing, so it is reported first.
    first: Any = min(error.errors(), key=lambda each: each["type"] != UNKNOWN_KEY)
    if first["type"] == REFUSED:
        place = ".".join(map(str, first["loc"]))
        context = first["ctx"]
        where = f"{where}: {place}" if place else where
        return ConfigError(context["what"], where=where, hint=context["hint"])
    return ConfigError(_explain(model, first), where=where)


def _explain(model: type[BaseModel], error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    context: dict[str, Any] = error.get("ctx") or {}
    known: list[str] | None = context.get("known")
    if error["type"] == UNKNOWN_KEY:
        known = fields_at(model, error["loc"][:-1]) if known is None else known
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
    if error["type"] in ("model_type", "list_type"):
        known = fields_at(model, error["loc"]) if known is None else known
        if known:
            several = error["type"] == "list_type" or not isinstance(error["loc"][-1], str)
            message = f"write it as a table, {f'[[{table}]]' if several else f'[{table}]'}"
    return f"'{path}' = {shown} is not valid: {message}"

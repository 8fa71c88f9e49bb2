"""Errors from inside a table whose model depends on what is in it, with their place and hint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

ModelT = TypeVar("ModelT", bound=BaseModel)

REFUSED = "posteriori_refused"
"""The type of an error that says all of it itself: `what`, and a `hint`."""

UNKNOWN_KEY = "extra_forbidden"


def refuse(what: str, hint: str | None = None, at: tuple[str | int, ...] = ()) -> NoReturn:
    """Raise a `ValidationError` about the value that is being validated, or the one below it that
    `at` leads to; `core.settings.parse` makes a `ConfigError` of it."""
    error = PydanticCustomError(REFUSED, "{what}", {"what": what, "hint": hint})
    raise ValidationError.from_exception_data(
        "settings", [InitErrorDetails(type=error, loc=at, input=None)]
    )


def refuse_key(key: str, known: Iterable[str]) -> NoReturn:
    """Raise a `ValidationError` for a key that is not among the `known` ones."""
    error = PydanticCustomError(UNKNOWN_KEY, "unknown key", {"known": list(known)})
    raise ValidationError.from_exception_data(
        "settings", [InitErrorDetails(type=error, loc=(key,), input=None)]
    )


def validated(model: type[ModelT], table: Mapping[str, Any]) -> ModelT:
    """The table as a `model`. What its errors are explained by (the keys that are known at their
    place) goes with them, for callers that do not know the model."""
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            error.title, [_with_keys(model, each) for each in error.errors()]
        ) from error


def _with_keys(model: type[BaseModel], error: Any) -> InitErrorDetails:
    loc, context = error["loc"], dict(error.get("ctx") or {})
    at = loc[:-1] if error["type"] == UNKNOWN_KEY else loc
    context.setdefault("known", fields_at(model, at))
    message = error["msg"].removeprefix("Value error, ")
    plain = {key: value for key, value in context.items() if key != "error"}
    kind = PydanticCustomError(error["type"], message, plain)
    return InitErrorDetails(type=kind, loc=loc, input=error.get("input"))


class KindTable:
    """A table whose keys depend on its kind."""

    keys_of_all: ClassVar[tuple[str, ...]]
    """The keys that it may have whatever its kind."""


def fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed in the table which `loc` points at: of a table whose model depends
    on what is in it, `keys_of_all`, those that it may always have."""
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        own = [t for t in inner if isinstance(t, type) and issubclass(t, KindTable)]
        if own:
            return list(own[0].keys_of_all)
        models = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)

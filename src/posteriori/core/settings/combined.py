"""Settings that may be given as one typed object, by their names, or as both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from posteriori.errors import ConfigError

from .parse import parse
from .strict import Strict

SettingsT = TypeVar("SettingsT", bound=Strict)


def combined(
    model: type[SettingsT],
    config: SettingsT | None,
    keywords: Mapping[str, Any],
    name: str,
    where: str,
) -> SettingsT:
    """The settings of `config` (the argument called `name`) with those among the `keywords`.

    An object was checked when it was made, and is taken as it is. Raises `ConfigError` for an
    object of another type, and for a key that both have.
    """
    if config is None:
        return parse(model, keywords, where=where)
    if not isinstance(config, model):
        raise ConfigError(
            f"{name} is a {type(config).__name__}, not a {model.__name__}",
            where=where,
            hint=f"write {name}={model.__name__}(...)",
        )
    if not keywords:
        return config
    held = dict(config)
    given = {key: held[key] for key in config.model_fields_set & model.model_fields.keys()}
    both = sorted(given.keys() & keywords.keys())
    if both:
        raise ConfigError(
            f"'{both[0]}' is given twice, by {name} and by its name",
            where=where,
            hint="remove one of them",
        )
    return parse(model, {**given, **keywords}, where=where)

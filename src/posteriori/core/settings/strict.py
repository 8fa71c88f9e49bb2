"""What all settings are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from posteriori.data.plain_values import is_list

from .plain_numbers import plain_numbers


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no infinities, nothing changed after the check.

    Made by hand, as in `posteriori.FitConfig(steps=200)`, settings that are refused raise the
    `ConfigError` that those of a file would.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    if not TYPE_CHECKING:  # type checkers know the arguments by the fields

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**plain_numbers(settings))
            except ValidationError as error:
                from .parse import config_error

                raise config_error(type(self), error, type(self).__name__) from error

        # A model inside another one is validated with it, and not by a call of its own.
        __init__.__pydantic_base_init__ = True


def as_tuple(value: Any) -> Any:
    """TOML and JSON know lists only, and a strict tuple refuses them: for `BeforeValidator`."""
    return tuple(value) if is_list(value) else value

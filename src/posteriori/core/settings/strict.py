"""What all settings are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no infinities, nothing changed after the check.

    Made by hand, as in `posteriori.FitConfig(steps=200)`, settings that are refused raise the
    `ConfigError` that those of a file would.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _plain_numbers(cls, settings: Any) -> Any:
        """Numpy's numbers are numbers: a sweep takes them from an array."""
        if not isinstance(settings, dict):
            return settings
        return {
            key: value.item() if _is_numpy_number(value) else value
            for key, value in settings.items()
        }

    if not TYPE_CHECKING:  # type checkers know the arguments by the fields

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                from .parse import config_error

                raise config_error(type(self), error, type(self).__name__) from error

        # A model inside another one is validated with it, and not by a call of its own.
        __init__.__pydantic_base_init__ = True


def as_tuple(value: Any) -> Any:
    """TOML and JSON know lists only, and a strict tuple refuses them: for `BeforeValidator`."""
    return tuple(value) if isinstance(value, list) else value


def _is_numpy_number(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()

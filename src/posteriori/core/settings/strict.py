"""What all settings are made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no infinities, nothing changed after the check."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def as_tuple(value: Any) -> Any:
    """TOML and JSON know lists only, and a strict tuple refuses them: for `BeforeValidator`."""
    return tuple(value) if isinstance(value, list) else value

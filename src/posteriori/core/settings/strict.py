"""What all settings are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from posteriori.data.plain_values import is_list

from .described import described
from .plain_numbers import plain_numbers


class Strict(BaseModel):
    """The base class of settings: no unknown keys, no conversions, no infinities, no changes.

    Settings that are made by hand and are refused raise the `ConfigError` that those of a file
    would.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> class Brevity(po.Strict):
        ...     nats_per_token: float
        >>> Brevity(nats_per_token=0.5).nats_per_token
        0.5
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> dict[str, Any]:
        """With the words of the docstring for each key: editors show them."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        return described(cls, schema)

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

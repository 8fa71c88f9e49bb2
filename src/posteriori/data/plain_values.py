"""What kind of value a file or a caller gave, for type checkers as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypeIs


def is_dict(value: Any) -> TypeIs[dict[str, Any]]:
    """A table, as TOML and JSON have it."""
    return isinstance(value, dict)


def is_mapping(value: Any) -> TypeIs[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def is_list(value: Any) -> TypeIs[list[Any]]:
    return isinstance(value, list)


def is_sequence(value: Any) -> TypeIs[Sequence[Any]]:
    """A sequence that is not a text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)

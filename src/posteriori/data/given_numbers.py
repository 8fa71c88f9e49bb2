"""Numbers that users give: finite ones, and whole ones. Python's integers have no end, texts look
like numbers, and True is 1; numbers from outside are checked here."""

from __future__ import annotations

import math
import operator
from typing import Any

from posteriori.errors import ConfigError

_MOST = 2**53
"""A count beyond it is no count: in floats it equals the next one."""


def finite(value: Any) -> float | None:
    """`value` as a float; None where it is no finite number, or too large for a float."""
    if isinstance(value, bool | str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def positive(value: Any) -> float | None:
    """`value` as a float; None unless it is a finite number above 0."""
    number = finite(value)
    return number if number is not None and number > 0 else None


def count(
    value: Any, name: str, least: int = 1, *, where: str | None = None, hint: str | None = None
) -> int:
    """`value` as an int. Raises `ConfigError` unless it is a whole number from `least` on."""
    wrong = f"{name}={in_short(value)} must be "
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ConfigError(f"{wrong}a whole number", where=where, hint=hint)
    if number < least:
        raise ConfigError(f"{wrong}at least {least}", where=where, hint=hint)
    if number > _MOST:
        raise ConfigError(f"{wrong}at most {_MOST}", where=where, hint=hint)
    return number


def in_short(value: Any) -> str:
    """Its `repr`, cut; Python itself refuses to write integers of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return f"a number of about {int(value.bit_length() * math.log10(2)):,} digits"
    return text if len(text) <= 60 else f"{text[:50]}...{text[-7:]}"

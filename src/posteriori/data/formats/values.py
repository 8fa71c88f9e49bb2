"""Values of tables as plain Python: what a missing one is, and what a number is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from posteriori.errors import DataError

_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
"""A cell that is a number. One with a leading zero is a name: a postcode, an identifier."""


MOST_LEVELS = 100
"""Lists and mappings within each other. Copying or writing a value goes down all of them."""


def check_depth(value: Any, where: str) -> None:
    """Raise `DataError` for a value that is nested deeper than that, or holds itself."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [each for part in level for each in _inside(part)]
        if not level:
            return
    raise DataError(
        f"a value is nested more than {MOST_LEVELS} levels deep",
        where=where,
        hint="keep it as a text, or leave that column out",
    )


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [each for each in value.values() if isinstance(each, Mapping | list | tuple)]
    if isinstance(value, list | tuple):
        return [each for each in value if isinstance(each, Mapping | list | tuple)]
    return []


def plain_value(value: Any) -> Any:
    """Arrays as lists, numpy's numbers as Python's, all the way down."""
    if isinstance(value, str | bytes | bool | int) or value is None:
        return value
    if isinstance(value, Mapping):
        return {key: plain_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(each) for each in value]
    if type(value).__module__ == "numpy":
        return plain_value(value.tolist())
    return value


def present(value: Any) -> Any:
    """A DataFrame's cell: None where it holds a mark of a missing value (NaN, NaT, NA)."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return None if isinstance(value, float) and value != value else value


def read_cells(columns: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
    """Columns of text as numbers where every cell that is not empty is one. Empty cells of such a
    column are None; a column of texts stays as it is written."""
    return {name: _numbers(cells) for name, cells in columns.items()}


def _numbers(cells: Sequence[str]) -> list[Any]:
    stripped = [cell.strip() for cell in cells]
    if not any(stripped) or not all(_is_number(cell) for cell in stripped if cell):
        return list(cells)
    whole = all(cell.lstrip("+-").isdecimal() for cell in stripped if cell)
    kind = int if whole else float
    return [kind(cell) if cell else None for cell in stripped]


def _is_number(cell: str) -> bool:
    """What no float can hold is a name: an identifier of digits, a hash such as 1234e567."""
    return bool(_NUMBER.fullmatch(cell)) and math.isfinite(float(cell))

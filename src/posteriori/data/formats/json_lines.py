"""JSON, read strictly: whatever it says twice, or in numbers that JSON does not have, is an error
with its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posteriori.data.given_numbers import finite
from posteriori.errors import DataError


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Only a line feed ends one: JSON strings may
    hold the other characters that Python's `splitlines` takes for ends."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, raw in enumerate(data.split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(
                f"not UTF-8 text at byte {error.start}",
                where=f"{path}:{number}",
                hint="save the file as UTF-8",
            ) from error
        if line.strip():
            yield number, line


def json_object(line: str, where: str) -> dict[str, Any]:
    row = json_value(line, where, 'write one object per line, such as {"prompt": "..."}')
    if not isinstance(row, dict):
        raise DataError(
            f"the line is {line.strip()[:40]}, not an object",
            where=where,
            hint='write {"prompt": "..."}',
        )
    return row


def json_value(text: str, where: str, hint: str) -> Any:
    """What the text says. Raises `DataError`."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "not valid text: half of a surrogate pair", where=where, hint="remove that escape"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]} at column {error.colno}",
            where=where,
            hint=hint,
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", where=where, hint="mend that line") from error
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice}' is there twice")
    return row


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _whole(text: str) -> int:
    value = int(text)
    if finite(value) is None:
        raise ValueError(f"an integer of {len(text)} digits is too large for a number")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value

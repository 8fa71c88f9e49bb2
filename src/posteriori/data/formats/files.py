"""Rows from files: JSON lines, JSON, CSV, Parquet, text, a saved data set, one of the hub."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posteriori.errors import DataError

from .json_lines import json_object, json_value, text_lines
from .optional_packages import needed
from .values import read_cells

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_rows(
    path: Path, name: str = "prompts", split: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of the file, folder or hub data set at `path`, with its place in words; `name` is
    what it should hold.

    Raises `DataError` for what is not there, cannot be read, or has several splits and none named.
    """
    if path.is_dir() or (not path.exists() and is_hub_id(str(path))):
        from .saved import saved_rows

        yield from saved_rows(path, split)
        return
    if not path.is_file():
        raise DataError(f"there is no such file of {name}", where=str(path), hint=f"check '{name}'")
    if split is not None:
        raise DataError("a file has no splits", where=str(path), hint=f"leave '{split}' out")
    readers = {
        ".jsonl": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        ".txt": _text,
    }
    if path.suffix not in readers:
        raise DataError(
            f"{name} cannot be read from a '{path.suffix}' file",
            where=str(path),
            hint=f"write {', '.join(SUFFIXES)}, or a folder by datasets' save_to_disk",
        )
    yield from readers[path.suffix](path)


def is_hub_id(path: str) -> bool:
    """Whether this can name a data set of the hub: owner/name, and no file's name."""
    return bool(_HUB_ID.fullmatch(path)) and Path(path).suffix not in SUFFIXES


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in text_lines(path):
        where = f"{path}:{number}"
        yield where, json_object(line, where)


def _text(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in text_lines(path):
        yield f"{path}:{number}", {"prompt": line}


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A list of objects, or an object with a column each."""
    hint = "write a list of objects, or .jsonl with one object per line"
    found = json_value(_utf8(path), str(path), hint)
    if isinstance(found, dict) and all(isinstance(each, list) for each in found.values()):
        if len({len(each) for each in found.values()}) > 1:
            raise DataError("its columns have other lengths", where=str(path), hint="mend them")
        found = [
            dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)
        ]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise DataError(
            "it is not a list of objects", where=str(path), hint='write [{"prompt": "..."}]'
        )
    for number, row in enumerate(found, start=1):
        yield f"{path}, row {number}", row


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A header and a row each; cells may hold line breaks. Columns of numbers are numbers."""
    reader = csv.reader(
        io.StringIO(_utf8(path), newline=""), "excel-tab" if path.suffix == ".tsv" else "excel"
    )
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(
                f"the column '{twice}' is there twice", where=f"{path}:1", hint="rename one"
            )
        places, cells = [], []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"the row has {len(row)} cells and the header {len(header)}",
                    where=f"{path}:{reader.line_num}",
                    hint='put cells that hold a comma or a line break between "quotes"',
                )
            places.append(f"{path}:{reader.line_num}")
            cells.append(row)
    except csv.Error as error:
        raise DataError(
            f"not valid CSV: {error}", where=f"{path}:{reader.line_num}", hint="mend that line"
        ) from error
    columns = {name: [row[at] for row in cells] for at, name in enumerate(header)}
    read = read_cells({n: c for n, c in columns.items() if n not in _TEXTS})
    columns = {name: read.get(name, values) for name, values in columns.items()}
    for place, values in zip(places, zip(*columns.values(), strict=True), strict=True):
        yield place, dict(zip(columns, values, strict=True))


_TEXTS = ("prompt", "chosen", "rejected", "completion", "text")
"""Columns that are texts whatever their cells look like: "12" is a prompt too."""


def _utf8(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text at byte {error.start}",
            where=str(path),
            hint="save the file as UTF-8",
        ) from error


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet: Any = needed("pyarrow.parquet", "reading Parquet", path)
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise DataError(
            f"it cannot be read: {error}", where=str(path), hint="write it by datasets' to_parquet"
        ) from error

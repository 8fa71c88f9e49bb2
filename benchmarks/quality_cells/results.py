"""The file of finished cells: one JSON object per line, written as soon as a cell is finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """Which cell: `draws` is 0 for an entry that trains nothing."""

    world: str
    entry: str
    draws: int
    seed: int


def key_of(row: Row) -> Key:
    return Key(row["world"], row["entry"], row["draws"], row["seed"])


def read(path: Path) -> dict[Key, Row]:
    """The finished cells; the last one counts where a cell occurs twice.

    A line that is no JSON is what a killed run had begun to write: that cell is not finished.
    """
    rows: dict[Key, Row] = {}
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[key_of(row)] = row
    return rows


def append(path: Path, key: Key, figures: Row) -> Row:
    """Add a finished cell, at the start of a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {**asdict(key), **figures}
    begun = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if begun else "") + json.dumps(row) + "\n")
    return row

"""Rows of a folder that `datasets` saved, or of a data set of the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posteriori.errors import DataError

from .optional_packages import needed


def saved_rows(path: Path, split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of one split; the only one where none is named.

    A folder by `save_to_disk`, a folder of data files, or the id of a data set of the hub.
    """
    data_set = _one(_load(path), path, split)
    for number, row in enumerate(data_set.with_format(None), start=1):
        yield f"{path}, row {number}", dict(row)


def _load(path: Path) -> Any:
    datasets: Any = needed("datasets", "reading saved data sets and those of the hub", path)
    bar = datasets.utils.logging
    shown = bar.is_progress_bar_enabled()
    bar.disable_progress_bar()
    try:
        if path.is_dir() and _is_saved(path):
            return datasets.load_from_disk(str(path))
        if path.is_dir():
            _check_size(path)
        return datasets.load_dataset(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        hint = "write it by datasets' to_parquet or save_to_disk"
        if not path.is_dir():
            hint = "check the name and the network, or give a file: .jsonl, .csv, .parquet"
        raise DataError(f"it cannot be read: {what}", where=str(path), hint=hint) from error
    finally:
        if shown:
            bar.enable_progress_bar()


MOST_FILES = 10_000
"""Files and folders below a folder of data files."""


def _check_size(path: Path) -> None:
    """A mistyped path is a home directory, or all of a disk, which `datasets` would look through
    for as long as it takes."""
    found = 0
    for _, folders, files in os.walk(path):
        found += len(folders) + len(files)
        if found > MOST_FILES:
            raise DataError(
                f"the folder holds more than {MOST_FILES:,} files, and is taken for no data set",
                where=str(path),
                hint="name the folder of the data files alone, or a file",
            )


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _one(found: Any, path: Path, split: str | None) -> Any:
    if not isinstance(found, dict):
        if split is not None:
            raise DataError("it has no splits", where=str(path), hint=f"leave '{split}' out")
        return found
    if split is None and len(found) > 1:
        named = path / next(iter(found))
        hint = f"name one of them: {named}" if path.is_dir() else "name one of them: split = ..."
        raise DataError(
            f"{'the folder' if path.is_dir() else 'it'} holds several splits: {', '.join(found)}",
            where=str(path),
            hint=hint,
        )
    chosen = next(iter(found)) if split is None else split
    if chosen not in found:
        raise DataError(
            f"there is no split '{chosen}'", where=str(path), hint=f"there are: {', '.join(found)}"
        )
    return found[chosen]

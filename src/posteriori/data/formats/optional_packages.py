"""Packages that only some sources want."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from posteriori.errors import DataError


def needed(module: str, doing: str, path: Path) -> Any:
    """An optional package, or the `DataError` that says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"{doing} needs the package 'datasets'",
            where=str(path),
            hint="pip install datasets (it is in the extra posteriori[bench]), or write .jsonl",
        ) from error

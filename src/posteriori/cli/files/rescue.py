"""A result that does not fit where it belongs is put elsewhere: the work for it is not lost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from posteriori.errors import CheckpointError


def write_or_rescue(path: Path, write: Callable[[Path], None], what: str) -> None:
    """`write(path)`; where that fails, the file goes to the system's temporary folder, and the
    `CheckpointError` says that `what` is there."""
    try:
        write(path)
    except CheckpointError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="posteriori-")) / path.name
        write(elsewhere)
        raise CheckpointError(
            error.what, where=error.where, hint=f"make room; {what} are in '{elsewhere}'"
        ) from error

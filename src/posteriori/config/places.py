"""Whether a directory that a config names can be made, before any work."""

from __future__ import annotations

import os
from pathlib import Path

from posteriori.errors import ConfigError


def check_place(path: Path, where: str) -> None:
    """Raises `ConfigError` where nothing can be written to `path`."""
    why = _why_not(path)
    if why is not None:
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
        raise ConfigError(
            f"the run cannot be kept in '{shown}': {why}",
            where=where,
            hint="choose another output_dir",
        )


def _why_not(path: Path) -> str | None:
    if "\0" in str(path):
        return "it holds a NUL character"
    try:
        there = path.absolute()
        while not there.exists():
            there = there.parent
        if there == path.absolute():
            # A file in its place has an error of its own.
            return None
        if not there.is_dir():
            return f"'{there}' is a file"
        os.statvfs(there)
        longest = os.pathconf(there, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in path.parts):
            return "a name in it is too long"
    except (OSError, UnicodeEncodeError) as error:
        return str(getattr(error, "strerror", None) or error)
    if str(there).startswith("/proc") or not os.access(there, os.W_OK | os.X_OK):
        return f"nothing may be made in '{there}'"
    return None

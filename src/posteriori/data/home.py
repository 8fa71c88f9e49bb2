"""Paths that begin with "~"."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """`path` with "~" and "~name" as home directories; as it stands where there is no such home,
    so that what is said is that there is no such file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)

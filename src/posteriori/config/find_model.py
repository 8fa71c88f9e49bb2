"""Models by what a person writes: a bundled name, a path, a hub id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from posteriori.data.home import expanded
from posteriori.errors import ModelError
from posteriori.models.bundled import bundled_models
from posteriori.models.hub import check_model_name

_LONGEST = 1000
"""Characters of a path or name."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def find_model(path: str, folder: Path, where: str) -> str:
    """A bundled name, an existing file or directory (made absolute), or a hub id as it is.

    Raises `ModelError` for what looks like a path and is not there, and for a name that neither
    this machine nor the hub knows.
    """
    bundled = bundled_models()
    if path in bundled:
        return path
    if not path.strip() or "\0" in path or len(path) > _LONGEST:
        shown = path if len(path) <= 60 else f"{path[:60]}..."
        raise ModelError(
            f"{shown!r} is no path or name of a model",
            where=where,
            hint=f"write a directory, a hub id, or one of: {', '.join(sorted(bundled))}",
        )
    place = (folder / expanded(path)).absolute()
    if place.exists():
        known = ("config.json", "adapter_config.json")
        if place.is_dir() and not any((place / name).is_file() for name in known):
            raise ModelError(
                f"'{place}' holds no model: it has neither config.json nor adapter_config.json",
                where=where,
                hint=_newest_checkpoint(place) or "give a directory that save_pretrained wrote",
            )
        return str(place)
    if _is_meant_as_path(path, place, bundled):
        raise ModelError(
            f"there is no model at '{place}'",
            where=where,
            hint=f"check the path, or use one that is bundled: {', '.join(sorted(bundled))}",
        )
    check_model_name(path, bundled, where)
    return path


def _newest_checkpoint(place: Path) -> str | None:
    """A hint for the output directory of a transformers or TRL trainer that saved no model itself.
    Which of its checkpoints is meant, only the caller knows."""
    found = {
        int(each.name.rpartition("-")[2]): each
        for each in place.glob("checkpoint-*")
        if each.is_dir() and each.name.rpartition("-")[2].isdecimal()
    }
    if not found:
        return None
    return f"it holds a trainer's checkpoints, the newest '{found[max(found)]}': give one of them"


def _is_meant_as_path(path: str, place: Path, bundled: Iterable[str]) -> bool:
    """Rather a path or a bundled name with a slip in it than a hub id, for which a machine without
    network waits half a minute."""
    return (
        path.startswith(("~", ".", "/"))
        or path.endswith(".gguf")
        or ("/" in path and place.parent.is_dir())
        or bool(difflib.get_close_matches(path, bundled, n=1, cutoff=0.8))
        or not _HUB_ID.fullmatch(path)
    )

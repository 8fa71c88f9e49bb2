"""A file that holds one JSON object, whatever it really holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(path: Path) -> dict[str, Any]:
    """What the file says. Raises `OSError` where it cannot be read, and `ValueError` where it is
    anything but one JSON object, however deep or large its parts are."""
    try:
        found = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not an object")
    return found

"""Numbers of numpy among settings that Python code gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain_numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Numpy's numbers are numbers: a sweep takes them from an array. A file has none."""
    return {
        key: value.item()
        if getattr(value, "shape", None) == () and hasattr(value, "item")
        else value
        for key, value in settings.items()
    }

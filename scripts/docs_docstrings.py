"""Docstrings as Markdown: the star of p* is a star, not the beginning of italics (for griffe)."""

from __future__ import annotations

import re
from typing import Any

import griffe

_CODE = re.compile(r"(`[^`]*`|(?m:^ {4}.*$))")
_STAR = re.compile(r"\*")


class PlainStars(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of every object that is read."""
        if obj.docstring:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    """The text with stars escaped, but for what is code: in backticks, or an indented line."""
    parts = _CODE.split(text)
    return "".join(part if at % 2 else _STAR.sub(r"\\*", part) for at, part in enumerate(parts))

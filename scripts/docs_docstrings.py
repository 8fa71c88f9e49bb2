"""Docstrings as Markdown: the star of p* is a star, and an example is code (for griffe)."""

from __future__ import annotations

import re
from typing import Any

import griffe

_CODE = re.compile(r"(`[^`]*`)")
_PROSE = ("Args:", "Attributes:", "Returns:", "Raises:")
"""Headings whose indented lines are no code."""


class PlainStars(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of every object that is read."""
        if obj.docstring:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    """The text with stars escaped, but for what is code: in backticks, or an indented line; and
    with the heading by which griffe knows examples."""
    lines, prose = [], False
    for line in text.split("\n"):
        if line and not line.startswith(" "):
            prose = line in _PROSE
        is_code = line.startswith("    ") and not prose
        plain = "Examples:" if line == "Example:" else line
        lines.append(line if is_code else _escaped(plain))
    return "\n".join(lines)


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(part if at % 2 else part.replace("*", r"\*") for at, part in enumerate(parts))

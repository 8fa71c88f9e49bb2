"""What the verbs print with: plain text outside a terminal, and never raw text from a model."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from rich.console import Console

from posteriori.distributed.world import is_first

from .lasting import Lasting

_PLAIN_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where a terminal's width means nothing."""


def stdout() -> Console:
    """For results. Markup is off: what is printed may come from a model or a user's file."""
    return _console(sys.stdout)


def stderr() -> Console:
    """For progress and notes, which the first of several processes shows."""
    if not is_first():
        return Console(file=io.StringIO(), width=_PLAIN_WIDTH)
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    _escape_what_it_cannot_write(stream)
    width = None if stream.isatty() else _PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _escape_what_it_cannot_write(stream: Any) -> None:
    """A terminal or pipe in ASCII gets escapes for other characters, instead of an error."""
    stream = stream.stream if isinstance(stream, Lasting) else stream
    # In the C locale Python's own choice is "surrogateescape", which fails as "strict" does.
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")


def print_json(value: Any) -> None:
    """One JSON document on standard output; infinities must have become strings before."""
    _escape_what_it_cannot_write(sys.stdout)
    sys.stdout.write(json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that people can read in their own script, and that commands no terminal: characters
    that are not printable, halves of surrogate pairs among them, are `\\u` escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def visible(text: str) -> str:
    """`text` on one line, with control characters and invisible ones as escapes: a completion can
    hold terminal commands."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )

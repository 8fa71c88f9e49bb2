"""What settings say of themselves: the words of their docstrings, for editors and for the tests."""

from __future__ import annotations

import inspect
import re
from typing import Any

_ENTRY = re.compile(r"^    (\w+): (.*)$")
_HEADING = re.compile(r"^(\w+):$", re.M)


def sections_of(docstring: str | None) -> dict[str, str]:
    """The text under each heading of a docstring, in order; what comes before the first is under
    the empty name."""
    _, *parts = _HEADING.split("\n" + inspect.cleandoc(docstring or ""))
    before = _HEADING.split("\n" + inspect.cleandoc(docstring or ""), maxsplit=1)[0].strip("\n")
    return {"": before, **dict(zip(parts[::2], parts[1::2], strict=True))}


def entries_of(section: str) -> dict[str, str]:
    """The entries of a section by name, each as one line: `name: what it is`."""
    found: dict[str, str] = {}
    now = ""
    for line in section.splitlines():
        entry = _ENTRY.match(line)
        if entry:
            now = entry[1]
            found[now] = entry[2]
        elif now and line.strip():
            found[now] += " " + line.strip()
    return found


def fields_of(model: type) -> dict[str, str]:
    """What each field of a model is, by its class and those that it is derived from."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        found |= entries_of(sections_of(each.__dict__.get("__doc__")).get("Args", ""))
    return found


def described(model: type, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a model, with each field's own words where an editor shows them."""
    words = fields_of(model)
    properties = {
        name: {**table, "description": words[name]} if name in words else table
        for name, table in schema.get("properties", {}).items()
    }
    whole = sections_of(model.__doc__)[""]
    return {**schema, "description": whole} | ({"properties": properties} if properties else {})

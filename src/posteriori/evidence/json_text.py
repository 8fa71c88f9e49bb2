"""JSON text against a schema, whole or as far as it has come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import regex

from ..errors import ConfigError

# RFC 8259. Every repetition is possessive: what comes next is always settled by one character, so
# there is nothing to go back to. Matched partially, it accepts exactly how a JSON text may begin.
_JSON = regex.compile(
    r"""(?x)(?(DEFINE)
    (?P<space>[\ \t\n\r]*+)
    (?P<string>"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+")
    (?P<number>-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+)
    (?P<member>(?&space)(?&string)(?&space):(?&value))
    (?P<object>\{(?:(?&space)|(?&member)(?:,(?&member))*+)\})
    (?P<array>\[(?:(?&space)|(?&value)(?:,(?&value))*+)\])
    (?P<value>
        (?&space)(?:(?&string)|(?&number)|true|false|null|(?&object)|(?&array))(?&space))
    )(?&value)"""
)
_FIRST = {
    "object": "{",
    "array": "[",
    "string": '"',
    "number": "-0123456789",
    "integer": "-0123456789",
    "boolean": "tf",
    "null": "n",
}
"""How a value of each type begins."""


class JsonText:
    """What a JSON Schema allows. Raises `ConfigError` for what is none, or without `jsonschema`."""

    def __init__(self, schema: Mapping[str, Any] | bool | str | Path) -> None:
        try:
            validators: Any = import_module("jsonschema.validators")
            errors: Any = import_module("jsonschema.exceptions")
        except ImportError as error:
            raise ConfigError(
                "JSON Schema needs the package 'jsonschema'",
                where="json_schema",
                hint="pip install jsonschema",
            ) from error
        told = _read(Path(schema)) if isinstance(schema, str | Path) else schema
        kind = validators.validator_for(told, default=validators.Draft202012Validator)
        try:
            kind.check_schema(told)
        except errors.SchemaError as error:
            raise ConfigError(
                f"it is no JSON Schema: {error.message} (at {error.json_path})",
                where="json_schema",
                hint='write one such as {"type": "object", "required": ["name"]}',
            ) from error
        self._valid = kind(told).is_valid
        types = told.get("type", list(_FIRST)) if isinstance(told, Mapping) else list(_FIRST)
        self._first = {_FIRST[each] for each in ([types] if isinstance(types, str) else types)}

    def allows(self, text: str) -> bool:
        """Whether the text is JSON that the schema allows."""
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return self._valid(value)

    def may_begin(self, text: str) -> bool:
        """Whether JSON of the schema's type begins so; never no where one that is allowed does."""
        begun = text.lstrip(" \t\n\r")
        if begun and not any(begun[0] in first for first in self._first):
            return False
        return _JSON.fullmatch(text, partial=True) is not None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no schema can be read from '{path}': {error}",
            where="json_schema",
            hint="give a JSON file, or the schema itself",
        ) from error

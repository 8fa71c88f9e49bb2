"""JSON text against a schema, whole or as far as it has come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import regex

from posteriori.errors import ConfigError, EvidenceError

from .bounded_schema import as_json, bounded, bounding, check_is_schema, check_pattern
from .schema_references import Schemas

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
            referencing: Any = import_module("referencing")
            exceptions: Any = import_module("referencing.exceptions")
        except ImportError as error:
            raise ConfigError(
                "JSON Schema needs the package 'jsonschema'",
                where="json_schema",
                hint="pip install 'posteriori[constraints]'",
            ) from error
        parsed = as_json(_read(Path(schema)) if isinstance(schema, str | Path) else schema)
        kind = validators.Draft202012Validator
        if isinstance(parsed, Mapping):
            kind = validators.validator_for(parsed, default=kind)
        check_is_schema(kind, parsed)
        schemas = Schemas(parsed, kind.META_SCHEMA["$schema"], partial(check_is_schema, kind))
        for pattern in schemas.patterns():
            check_pattern(pattern)
        # A registry that retrieves nothing: no reference goes to the net or to a file.
        self.schema = parsed
        self._valid = bounded(kind)(parsed, registry=referencing.Registry()).is_valid
        self._unresolvable = exceptions.Unresolvable
        types = parsed.get("type", list(_FIRST)) if isinstance(parsed, Mapping) else list(_FIRST)
        self._first = {_FIRST[each] for each in ([types] if isinstance(types, str) else types)}

    def __reduce__(self) -> tuple[Any, ...]:
        return JsonText, (self.schema,)

    def allows(self, text: str) -> bool:
        """Whether the text is JSON that the schema allows. Raises `EvidenceError` where that takes
        too long to say."""
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        try:
            with bounding():
                return self._valid(value)
        except RecursionError:
            return False
        except self._unresolvable as error:
            raise EvidenceError(
                f"the schema refers to what is not in it: {error}",
                where="json_schema",
                hint='put the definition under "$defs" of the same schema',
            ) from error

    def may_begin(self, text: str) -> bool:
        """Whether JSON of the schema's type begins so; never no where one that is allowed does."""
        begun = text.strip(" \t\n\r")
        if begun and not any(begun[0] in first for first in self._first):
            return False
        match = _JSON.fullmatch(text, partial=True)
        if match is None:
            return False
        # After the last bracket or quote nothing but white space may follow, which changes nothing.
        ended = not match.partial and begun[-1:] in ("}", "]", '"')
        return self.allows(text) if ended else True


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"no schema can be read from '{path}': {error}",
            where="json_schema",
            hint="give a JSON file, or the schema itself",
        ) from error

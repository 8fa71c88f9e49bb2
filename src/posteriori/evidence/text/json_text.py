"""JSON text against a schema, whole or as far as it has come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import regex

from posteriori.errors import ConfigError, EvidenceError

from .pattern_size import check_pattern_size, patterns_of

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
            referencing: Any = import_module("referencing")
            import_module("referencing.exceptions")
        except ImportError as error:
            raise ConfigError(
                "JSON Schema needs the package 'jsonschema'",
                where="json_schema",
                hint="pip install 'posteriori[constraints]'",
            ) from error
        parsed = _read(Path(schema)) if isinstance(schema, str | Path) else schema
        kind = validators.validator_for(parsed, default=validators.Draft202012Validator)
        try:
            kind.check_schema(parsed)
        except errors.SchemaError as error:
            raise ConfigError(
                f"it is no JSON Schema: {error.message} (at {error.json_path})",
                where="json_schema",
                hint='write one such as {"type": "object", "required": ["name"]}',
            ) from error
        _check_references(parsed)
        _check_circles(parsed)
        for pattern in patterns_of(parsed):
            check_pattern_size(pattern, "json_schema")
        # Every pattern of the schema is matched by an engine that can be stopped.
        extended = validators.extend(
            kind, {"pattern": _pattern, "patternProperties": _pattern_properties}
        )
        # A registry that retrieves nothing: no reference goes to the net or to a file.
        self.schema = parsed
        self._valid = extended(parsed, registry=referencing.Registry()).is_valid
        self._unresolvable = (referencing.exceptions.Unresolvable, RecursionError)
        types = parsed.get("type", list(_FIRST)) if isinstance(parsed, Mapping) else list(_FIRST)
        self._first = {_FIRST[each] for each in ([types] if isinstance(types, str) else types)}

    def allows(self, text: str) -> bool:
        """Whether the text is JSON that the schema allows."""
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        try:
            return self._valid(value)
        except self._unresolvable as error:
            raise EvidenceError(
                f"the schema refers to what is not in it: {error}"
                if not isinstance(error, RecursionError)
                else "the schema refers to itself without end",
                where="json_schema",
                hint='put the definition under "$defs" of the same schema',
            ) from error

    def may_begin(self, text: str) -> bool:
        """Whether JSON of the schema's type begins so; never no where one that is allowed does."""
        begun = text.lstrip(" \t\n\r")
        if begun and not any(begun[0] in first for first in self._first):
            return False
        return _JSON.fullmatch(text, partial=True) is not None


def _check_references(schema: Any) -> None:
    """Raise `ConfigError` for a reference to another document, which would have to be fetched."""
    stack, base = [schema], None
    while stack:
        part = stack.pop()
        if isinstance(part, Mapping):
            base = base or part.get("$id")
            for name in ("$ref", "$dynamicRef"):
                to = part.get(name)
                if isinstance(to, str) and "://" in to and not (base and to.startswith(str(base))):
                    raise ConfigError(
                        f"the schema refers to '{to}', and nothing is fetched",
                        where="json_schema",
                        hint='copy it into "$defs" of the schema, and refer to "#/$defs/name"',
                    )
            stack += part.values()
        elif isinstance(part, list):
            stack += part


def _check_circles(schema: Any) -> None:
    """Raise `ConfigError` for references that lead back to themselves without going into a value:
    such a schema asks for itself before it asks for anything."""

    def follow(part: Any, seen: tuple[str, ...]) -> None:
        if not isinstance(part, Mapping):
            return
        to = part.get("$ref")
        if isinstance(to, str) and to.startswith("#"):
            if to in seen:
                raise ConfigError(
                    f"the schema's reference '{to}' leads back to itself and never to a value",
                    where="json_schema",
                    hint='put it below "properties" or "items", and write what is there beside it',
                )
            follow(_at(schema, to), (*seen, to))
        for name in ("allOf", "anyOf", "oneOf"):
            for each in part.get(name) or ():
                follow(each, seen)

    follow(schema, ("#",))
    for definitions in ("$defs", "definitions"):
        for name, each in dict(schema.get(definitions, {}) if _is_map(schema) else {}).items():
            follow(each, (f"#/{definitions}/{name}",))


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _at(schema: Any, pointer: str) -> Any:
    """What a reference inside the document points at; None where nothing is there."""
    part = schema
    for step in pointer.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and key.isdigit() and int(key) < len(part):
            part = part[int(key)]
        elif isinstance(part, Mapping) and key in part:
            part = part[key]
        else:
            return None
    return part


def found_in(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere. Raises `EvidenceError` where that takes too long."""
    try:
        return regex.search(pattern, text, timeout=_SECONDS) is not None
    except TimeoutError as error:
        raise EvidenceError(
            f"the pattern {pattern[:60]!r} takes more than {_SECONDS:.0f} s on {text[:40]!r}",
            where="json_schema",
            hint="write it without a repetition inside a repetition, such as (a+)+",
        ) from error
    except regex.error as error:
        raise EvidenceError(
            f"the pattern {pattern[:60]!r} is no regular expression: {error}", where="json_schema"
        ) from error


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not found_in(pattern, value):
        yield _violation(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, properties: Mapping[str, Any], value: Any, _schema: Any
) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    for pattern, under in properties.items():
        for name, each in value.items():
            if found_in(pattern, name):
                yield from validator.descend(each, under, path=name, schema_path=pattern)


def _violation(message: str) -> Any:
    return import_module("jsonschema.exceptions").ValidationError(message)


_SECONDS = 2.0
"""For one match: patterns that are no trap take thousandths of one."""


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

"""A JSON Schema that is checked in bounded time, whatever it and the text are: patterns by an
engine that can be stopped, and so many references for each text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from importlib import import_module
from typing import Any

import regex

from posteriori.errors import ConfigError, EvidenceError

from .pattern_size import check_pattern_size
from .timed_match import matches

DEEPEST = 100
"""Levels of lists and mappings in a schema."""

MOST_REFERENCES = 50_000
"""For each text; they take a few seconds."""

_WHERE = "json_schema"
_LEFT: ContextVar[list[int]] = ContextVar("references_left")


def as_json(schema: Any) -> Any:
    """A copy of `schema` of what JSON has. Raises `ConfigError` where it holds anything else."""
    try:
        copied = json.loads(json.dumps(schema, allow_nan=False, default=_plain))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"the schema is not made of what JSON has: {error}",
            where=_WHERE,
            hint="write it with dict, list, str, bool, None and finite numbers",
        ) from error
    level, depth = [copied], 0
    while level := [each for part in level for each in _inside(part)]:
        depth += 1
        if depth > DEEPEST:
            raise ConfigError(
                f"the schema is nested more than {DEEPEST} levels deep",
                where=_WHERE,
                hint='put parts of it under "$defs", and refer to them',
            )
    return copied


def check_is_schema(kind: Any, schema: Any) -> None:
    """Raise `ConfigError` for what is no schema of the `kind` of validator."""
    errors: Any = import_module("jsonschema.exceptions")
    try:
        kind.check_schema(schema)
    except errors.SchemaError as error:
        raise ConfigError(
            f"it is no JSON Schema: {error.message[:200]} (at {error.json_path[:200]})",
            where=_WHERE,
            hint='write one such as {"type": "object", "required": ["name"]}',
        ) from error


def check_pattern(pattern: str) -> None:
    """Raise `ConfigError` for a pattern that cannot be compiled, or only by taking all memory."""
    check_pattern_size(pattern, _WHERE)
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(
            f"the pattern {pattern[:60]!r} is no regular expression: {error}", where=_WHERE
        ) from error


def bounded(kind: Any) -> Any:
    """The `kind` of validator with every keyword's time bounded, to be used within `bounding`."""
    own = {"pattern": _pattern, "patternProperties": _pattern_properties}
    for name in ("$ref", "$dynamicRef", "$recursiveRef"):
        if name in kind.VALIDATORS:
            own[name] = _counting(kind.VALIDATORS[name])
    for name in ("multipleOf", "divisibleBy"):
        if name in kind.VALIDATORS:
            own[name] = _dividing(kind.VALIDATORS[name])
    return import_module("jsonschema.validators").extend(kind, own)


@contextmanager
def bounding() -> Iterator[None]:
    """For one text."""
    token = _LEFT.set([MOST_REFERENCES])
    try:
        yield
    finally:
        _LEFT.reset(token)


Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


def _counting(follow: Keyword) -> Keyword:
    def reference(validator: Any, to: Any, value: Any, schema: Any) -> Iterator[Any]:
        left = _LEFT.get()
        left[0] -= 1
        if left[0] < 0:
            raise EvidenceError(
                f"one text takes more than {MOST_REFERENCES:,} references of the schema",
                where=_WHERE,
                hint="let no definition refer to itself or another one several times for one value",
            )
        yield from follow(validator, to, value, schema) or ()

    return reference


def _dividing(divide: Keyword) -> Keyword:
    """Also numbers that are too large for a float (a whole one may be; 1e999 is a multiple of
    nothing)."""

    def multiple_of(validator: Any, factor: Any, value: Any, schema: Any) -> Iterator[Any]:
        try:
            yield from divide(validator, factor, value, schema) or ()
        except OverflowError:
            if isinstance(value, float) or Fraction(value) % Fraction(factor):
                yield _violation("it is no multiple")

    return multiple_of


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not matches(regex.compile(pattern), "search", value, _WHERE):
        yield _violation(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, properties: Mapping[str, Any], value: Any, _schema: Any
) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    for pattern, under in properties.items():
        for name, each in value.items():
            if matches(regex.compile(pattern), "search", name, _WHERE):
                yield from validator.descend(each, under, path=name, schema_path=pattern)


def _violation(message: str) -> Any:
    return import_module("jsonschema.exceptions").ValidationError(message)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is in it")


def _inside(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    return part if isinstance(part, list) else []

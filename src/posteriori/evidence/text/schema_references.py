"""The references of a JSON Schema, followed before any text is: each leads somewhere inside the
schema, none leads back to itself, and together they are not too many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from posteriori.errors import ConfigError

MOST = 100_000
"""Schemas that one value is checked against; so many take about a second."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_OF_THE_SAME_VALUE = ("not", "if", "then", "else")
_LISTS_OF_THE_SAME_VALUE = ("allOf", "anyOf", "oneOf")
_TABLES_OF_THE_SAME_VALUE = ("dependentSchemas", "dependencies")


class Schemas:
    """All schemas inside `schema`, which is written in `dialect` (a `$schema`); `check` raises for
    what is no schema, to be asked of whatever is referred to.

    Raises `ConfigError` for a reference to another document, which would have to be fetched, to
    nothing, or back to the schema that it stands in, for the same value.
    """

    def __init__(self, schema: Any, dialect: str, check: Callable[[Any], None]) -> None:
        jsonschema: Any = import_module("referencing.jsonschema")
        self._errors: Any = import_module("referencing.exceptions")
        core: Any = import_module("referencing")
        self._spec = spec = jsonschema.specification_with(dialect)
        self._check = check
        # With siblings of $ref, these drafts do nothing.
        self._alone = spec in (
            jsonschema.DRAFT3, jsonschema.DRAFT4, jsonschema.DRAFT6, jsonschema.DRAFT7
        )  # fmt: skip
        root = spec.create_resource(schema)
        self.found: dict[int, Mapping[str, Any]] = {}
        """By identity."""
        self._next: dict[int, list[int]] = {}
        try:
            self._follow(root, core.Registry().resolver_with_root(root))
        except ValueError as error:
            raise ConfigError(
                f"an $id or $ref of the schema is no address: {error}", where="json_schema"
            ) from error
        self._check_expansion()

    def _follow(self, root: Any, resolver: Any) -> None:
        left = [(root, resolver)]
        while left:
            resource, resolver = left.pop()
            schema = resource.contents
            if not isinstance(schema, Mapping) or id(schema) in self.found:
                continue
            self.found[id(schema)] = schema
            after = [] if self._alone and "$ref" in schema else list(_same_value(schema))
            for name in _REFERENCES:
                if isinstance(schema.get(name), str):
                    to = self._lookup(resolver, schema[name])
                    left.append((self._spec.create_resource(to.contents), to.resolver))
                    after.append(to.contents)
            self._next[id(schema)] = [id(each) for each in after if isinstance(each, Mapping)]
            left += [(each, resolver.in_subresource(each)) for each in resource.subresources()]

    def _lookup(self, resolver: Any, to: str) -> Any:
        try:
            found = resolver.lookup(to)
        except self._errors.Unresolvable as error:
            raise ConfigError(
                f"the schema refers to '{to[:100]}', which is not in it, and nothing is fetched",
                where="json_schema",
                hint='copy it into "$defs" of the schema, and refer to "#/$defs/name"',
            ) from error
        if id(found.contents) not in self.found:
            self._check(found.contents)
        return found

    def _check_expansion(self) -> None:
        """How many schemas a value meets below each, innermost first."""
        sizes: dict[int, int] = {}
        for start in self.found:
            path, waiting = {start}, [(start, iter(self._next[start]))]
            while waiting and start not in sizes:
                at, rest = waiting[-1]
                to = next((each for each in rest if each not in sizes), None)
                if to in path:
                    raise ConfigError(
                        "the schema refers back to itself without end, for the same value",
                        where="json_schema",
                        hint='let a reference back stand under "properties" or "items"',
                    )
                if to is not None:
                    path.add(to)
                    waiting.append((to, iter(self._next[to])))
                    continue
                waiting.pop()
                path.discard(at)
                sizes[at] = 1 + sum(sizes[each] for each in self._next[at])
                if sizes[at] > MOST:
                    raise ConfigError(
                        f"by its references the schema checks a value more than {MOST:,} times",
                        where="json_schema",
                        hint="let no definition refer to another one several times, over many "
                        "levels",
                    )

    def patterns(self) -> Iterator[str]:
        """All regular expressions in them."""
        for schema in self.found.values():
            if isinstance(schema.get("pattern"), str):
                yield schema["pattern"]
            if isinstance(schema.get("patternProperties"), Mapping):
                yield from map(str, schema["patternProperties"])


def _same_value(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas that a value of `schema` is checked against as well."""
    for name in _OF_THE_SAME_VALUE:
        yield schema.get(name)
    for name in _LISTS_OF_THE_SAME_VALUE:
        if isinstance(schema.get(name), list):
            yield from schema[name]
    for name in _TABLES_OF_THE_SAME_VALUE:
        if isinstance(schema.get(name), Mapping):
            yield from schema[name].values()

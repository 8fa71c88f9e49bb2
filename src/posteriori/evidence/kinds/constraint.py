"""Hard constraints as evidence."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .function import Called, FunctionKind, FunctionWay


class ConstraintFunction(FunctionWay):
    """A function that returns true or false."""

    def build(self, site: Site) -> Any:
        from posteriori.evidence.constraint import Constraint

        return Constraint(site.function("function", self.function), calls=self.calls)


class TextConstraint(Called):
    """A constraint on the text alone, which is quick to make: its check makes it."""

    def check(self, site: Site) -> None:
        self.build(site)


class RegexConstraint(TextConstraint):
    """See `posteriori.constraints.regex`."""

    own: ClassVar[str] = "regex"
    says: ClassVar[str] = "the text, or a part of it, matches a pattern"

    regex: str
    match: Literal["full", "search"] = "full"

    def build(self, site: Site) -> Any:
        del site
        from posteriori.evidence.text import constraints

        return constraints.regex(self.regex, self.match, calls=self.calls)


class WordsSettings(Strict):
    """See `posteriori.constraints.words`."""

    any_of: list[str] = Field(default_factory=list)
    none_of: list[str] = Field(default_factory=list)
    all_of: list[str] = Field(default_factory=list)
    case_sensitive: bool = False


class WordsConstraint(TextConstraint):
    """See `posteriori.constraints.words`."""

    own: ClassVar[str] = "words"
    says: ClassVar[str] = "it has some words, all of some, or none of some"

    words: WordsSettings

    def build(self, site: Site) -> Any:
        del site
        from posteriori.evidence.text import constraints

        return constraints.words(**dict(self.words), calls=self.calls)


class LengthSettings(Strict):
    """See `posteriori.constraints.length`."""

    min_tokens: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0)
    min_words: int | None = Field(default=None, ge=0)
    max_words: int | None = Field(default=None, ge=0)


class LengthConstraint(TextConstraint):
    """See `posteriori.constraints.length`."""

    own: ClassVar[str] = "length"
    says: ClassVar[str] = "it is so many tokens or words long"

    length: LengthSettings

    def build(self, site: Site) -> Any:
        del site
        from posteriori.evidence.text import constraints

        return constraints.length(**dict(self.length), calls=self.calls)


class JsonConstraint(TextConstraint):
    """See `posteriori.constraints.json_schema`."""

    own: ClassVar[str] = "json_schema"
    says: ClassVar[str] = "it is JSON that a schema allows"

    json_schema: str | bool | dict[str, Any]

    def build(self, site: Site) -> Any:
        from posteriori.evidence.text import constraints

        schema = self.json_schema
        given = site.path(schema) if isinstance(schema, str) else schema
        return constraints.json_schema(given, calls=self.calls)


class ConstraintKind(FunctionKind):
    """`posteriori.Constraint` and `posteriori.constraints`."""

    kind = "constraint"
    ways = (
        RegexConstraint,
        WordsConstraint,
        LengthConstraint,
        JsonConstraint,
        ConstraintFunction,
    )

"""Hard constraints as evidence."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .function import Called, FunctionKind, FunctionWay


class ConstraintFunction(FunctionWay):
    """A constraint by the user's function; see `posteriori.Constraint`.

    Example:
        [[evidence]]
        kind = "constraint"
        function = "my_rules.py:holds"
    """

    def build(self, site: Site) -> Any:
        from posteriori.evidence.constraint import Constraint

        return Constraint(site.function("function", self.function), calls=self.calls)


class TextConstraint(Called):
    """A constraint on the text alone, which is quick to make: its check makes it."""

    def check(self, site: Site) -> None:
        self.build(site)


class RegexConstraint(TextConstraint):
    """A constraint by a regular expression; see `posteriori.constraints.regex`.

    Args:
        regex: the pattern, in the syntax of the package `regex`.
        match: whether all of the text matches ("full"), or a part of it ("search").

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "constraint"
        regex = "[0-9]+"
        match = "search"
    """

    own: ClassVar[str] = "regex"
    says: ClassVar[str] = "the text, or a part of it, matches a pattern"

    regex: str
    match: Literal["full", "search"] = "full"

    def build(self, site: Site) -> Any:
        del site
        from posteriori.evidence.text import constraints

        return constraints.regex(self.regex, self.match, calls=self.calls)


class WordsSettings(Strict):
    """The words of a constraint; see `posteriori.constraints.words`.

    Args:
        any_of: words of which one at least is there.
        none_of: words of which none is there.
        all_of: words that are all there.
        case_sensitive: whether capitals count.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    any_of: list[str] = Field(default_factory=list)
    none_of: list[str] = Field(default_factory=list)
    all_of: list[str] = Field(default_factory=list)
    case_sensitive: bool = False


class WordsConstraint(TextConstraint):
    """A constraint by words that the text has or has not; see `posteriori.constraints.words`.

    Args:
        words: which words, and how many of them.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "constraint"
        words = { none_of = ["awful", "bad"] }
    """

    own: ClassVar[str] = "words"
    says: ClassVar[str] = "it has some words, all of some, or none of some"

    words: WordsSettings

    def build(self, site: Site) -> Any:
        del site
        from posteriori.evidence.text import constraints

        return constraints.words(**dict(self.words), calls=self.calls)


class LengthSettings(Strict):
    """The bounds of a constraint on the length; see `posteriori.constraints.length`.

    Args:
        min_tokens: fewest tokens, the end of sequence counted.
        max_tokens: most tokens, counted alike.
        min_words: fewest words, as white space separates them.
        max_words: most words.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    min_tokens: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0)
    min_words: int | None = Field(default=None, ge=0)
    max_words: int | None = Field(default=None, ge=0)


class LengthConstraint(TextConstraint):
    """A constraint on the length; see `posteriori.constraints.length`.

    Args:
        length: its bounds.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "constraint"
        length = { max_words = 12 }
    """

    own: ClassVar[str] = "length"
    says: ClassVar[str] = "it is so many tokens or words long"

    length: LengthSettings

    def build(self, site: Site) -> Any:
        del site
        from posteriori.evidence.text import constraints

        return constraints.length(**dict(self.length), calls=self.calls)


class JsonConstraint(TextConstraint):
    """A constraint by a JSON Schema; see `posteriori.constraints.json_schema`.

    Args:
        json_schema: the schema as a table, or the file that holds it.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "constraint"
        json_schema = { type = "array", items = { type = "integer" } }
    """

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

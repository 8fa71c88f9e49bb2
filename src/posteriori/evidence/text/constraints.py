"""Ready-made constraints on the text: a regular expression, words, length, JSON Schema.

Each says of a prefix, too, whether it can still come right, so that SMC with twist="prefix" prunes
early. That rests on decoding from left to right: the text of a prefix is how the whole text begins,
up to a last character that is not whole yet (U+FFFD stands for it; it is left out here).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import regex as regex_module
from pydantic import BaseModel

from posteriori.data.completion_text import own_text
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError
from posteriori.evidence.constraint import Constraint
from posteriori.evidence.grammar import Grammar

from .json_text import JsonText
from .pattern_size import check_pattern_size
from .relaxed_pattern import relaxed
from .timed_match import matches
from .word_list import word_pattern

_HALF = "\N{REPLACEMENT CHARACTER}"

_LITERAL = regex_module.compile(
    r"\\[pPN]\{[^}]*\}|\\(?![bBmMzZGXRK])[\s\S]|\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]"
)
"""What stands for one character, whatever it is written with: \\$, \\{, \\p{L}, [$^]."""

_VERBOSE = regex_module.compile(r"\(\?[a-zA-Z0-9]*x")
"""Comments may hold brackets that begin no set."""

_LOOKS_AROUND = regex_module.compile(r"\\[bBmMzZ]|\$|\(\?<?[=!]")
"""Assertions, which `relaxed` leaves out."""

_UNJUDGED = regex_module.compile(r"\\[GXRK]|\(\?\(|\(\?#|\(\*|\{[^}\d,]")
"""What else may look at the end of a prefix and take it for the end of the text (conditionals,
verbs, fuzzy matching). It may find too many of them: that only costs pruning."""

_REFERS = regex_module.compile(r"\\[1-9g]|\(\?(?:P[=>]|&|R|[0-9+-])|\}\+")
"""References to groups, which may be inside an assertion that is left out; and what may be a
possessive quantifier, or a bracket."""


class TextTest:
    """A function of a completion's text alone, called as evidence functions are."""

    def __init__(self, name: str, test: Callable[[str], bool], half: bool = False) -> None:
        self.__name__, self.test, self.half = name, test, half

    def __call__(self, completions: Sequence[Any], **_: Any) -> list[bool]:
        texts = (own_text(each) for each in completions)
        if self.half:
            texts = (text.rstrip(_HALF) for text in texts)
        return [self.test(text) for text in texts]


# Functions at the top of a module can be pickled, for evidence in processes of its own.
def _matches(pattern: Any, how: Any, in_part: bool, text: str) -> bool:
    return matches(pattern, how, text, "regex", partial=in_part)


def _has_words(
    wanted: Sequence[re.Pattern[str]], banned: Sequence[re.Pattern[str]], text: str
) -> bool:
    """Whether every wanted pattern stands in the text, and none that is banned."""
    return all(each.search(text) for each in wanted) and not any(
        each.search(text) for each in banned
    )


@named_arguments
def regex(
    pattern: str, match: Literal["full", "search"] = "full", flags: int = 0, **calling: Any
) -> Constraint:
    """A constraint by a regular expression, whole or in part.

        e(c, y) = 1 where the text matches `pattern`: all of it ("full"), or a part ("search")

    A prefix is ruled out when no continuation of it can match, by partial matching; assertions
    about what comes next or came before (\\b, $, lookarounds) count as true of a prefix, and are
    judged of the whole text. Patterns in verbose mode, with conditionals, verbs or fuzzy parts have
    no prefix check, nor have those with both assertions and references to groups.

    Args:
        pattern: in the syntax of the package `regex`, which contains that of `re`.
        match: "full" or "search".
        flags: of the package `regex`.
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`).

    Returns:
        The constraint.

    Raises:
        ConfigError: for a pattern that cannot be compiled.
        EvidenceError: when scoring, for a text on which the pattern takes seconds.

    Example:
        >>> letters = po.constraints.regex("[ab]+")
        >>> bool(po.exact(po.Target(prior, letters, ["x"], 3)).log_z[0] < 0)
        True
    """
    if not isinstance(pattern, str):
        raise ConfigError(
            f"the pattern is a {type(pattern).__name__}",
            where="regex",
            hint='write it as text, such as r"[0-9]+", and flags as flags=',
        )
    if match not in ("full", "search"):
        raise ConfigError(f"match='{match}' is neither 'full' nor 'search'", where="regex")
    check_pattern_size(pattern, "regex")
    try:
        compiled = regex_module.compile(pattern, flags)
    except regex_module.error as error:
        raise ConfigError(
            f"'{pattern}' is no regular expression: {error}",
            where="regex",
            hint="a literal ( or [ is written \\( or \\[",
        ) from error
    how = "fullmatch" if match == "full" else "search"
    whole = TextTest(f"regex {pattern}", partial(_matches, compiled, how, False))
    of_prefix = _for_prefixes(pattern, flags)
    if of_prefix is None:
        return Constraint(whole, **calling)
    loose = regex_module.compile(of_prefix, flags)
    prefix = TextTest(whole.__name__, partial(_matches, loose, how, True), half=True)
    whole_pattern = of_prefix if match == "full" else rf"(?s:.*)(?:{of_prefix})(?s:.*)"
    grammar = None if flags else Grammar("regex", whole_pattern)
    return Constraint(whole, prefix, grammar=grammar, quick=True, **calling)


def _for_prefixes(pattern: str, flags: int) -> str | None:
    """What a prefix is matched with in part; None where nothing can judge it."""
    is_verbose = bool(flags & regex_module.VERBOSE or _VERBOSE.search(pattern))
    bare = pattern if is_verbose else _LITERAL.sub("x", pattern)
    if _UNJUDGED.search(bare):
        return None
    if not _LOOKS_AROUND.search(bare):
        return pattern
    return None if is_verbose or _REFERS.search(pattern) else relaxed(pattern)


@named_arguments
def words(
    any_of: Sequence[str] = (),
    none_of: Sequence[str] = (),
    all_of: Sequence[str] = (),
    case_sensitive: bool = False,
    **calling: Any,
) -> Constraint:
    """A constraint by words that stand in the text, or do not.

        e(c, y) = 1 where one of `any_of`, all of `all_of` and none of `none_of` stand in the text

    Words (or phrases) stand there whole: no letter, digit or underscore next to them. A prefix is
    ruled out when a word of `none_of` stands in it and the next character has been seen.

    Args:
        any_of: words of which one at least is there.
        none_of: words of which none is there.
        all_of: words that are all there.
        case_sensitive: whether capitals count.
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`).

    Returns:
        The constraint.

    Raises:
        ConfigError: for no words at all, or a string in place of a list.

    Example:
        >>> po.Target("tiny", po.constraints.words(none_of=["bad"]), ["The food is"], 4)
        Target(CausalLM x [constraint 'words'], 1 prompts, max_new_tokens=4)
    """
    if not (any_of or none_of or all_of):
        raise ConfigError("there are no words", where="words", hint="give any_of, all_of, none_of")
    wanted = [word_pattern(any_of, case_sensitive)] if any_of else []
    wanted += [word_pattern([word], case_sensitive) for word in all_of]
    whole_name = "words"
    if not none_of:
        return Constraint(
            TextTest(whole_name, partial(_has_words, wanted, ())),
            TextTest(whole_name, partial(_has_words, (), ())),
            **calling,
        )
    banned = word_pattern(none_of, case_sensitive)
    for_good = re.compile(rf"(?:{banned.pattern})(?=\W)", banned.flags)
    return Constraint(
        TextTest(whole_name, partial(_has_words, wanted, (banned,))),
        TextTest(whole_name, partial(_has_words, (), (for_good,)), half=True),
        quick=True,
        **calling,
    )


@named_arguments
def length(
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    min_words: int | None = None,
    max_words: int | None = None,
    **calling: Any,
) -> Constraint:
    """A constraint on the length, in tokens, in words, or both.

        e(c, y) = 1 where min <= |y| <= max

    Tokens are counted as `max_new_tokens` counts them: the end of sequence is one. Words are what
    white space separates. A prefix is ruled out when it is too long already.

    Args:
        min_tokens: fewest tokens.
        max_tokens: most tokens.
        min_words: fewest words.
        max_words: most words.
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`).

    Returns:
        The constraint.

    Raises:
        ConfigError: for no bound, a negative one, or a smallest above the largest.

    Example:
        >>> exact = po.exact(po.Target(prior, po.constraints.length(max_tokens=2), ["x"], 3))
        >>> bool(exact.log_z[0] < 0)
        True
    """
    bounds = {
        "tokens": (min_tokens, max_tokens),
        "words": (min_words, max_words),
    }
    if all(bound is None for two in bounds.values() for bound in two):
        raise ConfigError("there is no bound", where="length", hint="write max_tokens=20")
    for unit, (least, most) in bounds.items():
        if (least or 0) < 0 or (most is not None and most < (least or 0)):
            raise ConfigError(f"no text has from {least} to {most} {unit}", where="length")

    def within(least: int | None, size: int, most: int | None) -> bool:
        return (least is None or size >= least) and (most is None or size <= most)

    def length_within(completions: Sequence[Any], completion_ids: list[list[int]]) -> list[bool]:
        return [
            within(min_tokens, len(ids), max_tokens)
            and within(min_words, len(own_text(text).split()), max_words)
            for text, ids in zip(completions, completion_ids, strict=True)
        ]

    def not_too_long(completions: Sequence[Any], completion_ids: list[list[int]]) -> list[bool]:
        return [
            within(None, len(ids), max_tokens)
            and within(None, len(own_text(text).rstrip(_HALF).split()), max_words)
            for text, ids in zip(completions, completion_ids, strict=True)
        ]

    return Constraint(length_within, not_too_long, quick=True, **calling)


@named_arguments
def json_schema(
    schema: Mapping[str, Any] | bool | str | Path | type[BaseModel], **calling: Any
) -> Constraint:
    """A constraint by a JSON Schema.

        e(c, y) = 1 where the text is JSON (RFC 8259) that `schema` allows

    White space around it is allowed, NaN and Infinity are not. What is nested deeper than Python's
    parser or jsonschema goes does not count as JSON, nor do integers of more than 4,300 digits. A
    prefix is ruled out when no JSON text begins so, or none of the `type` that the schema's top
    level wants. Needs the package `jsonschema`.

    Args:
        schema: a mapping, a file, or a pydantic model.
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`).

    Returns:
        The constraint.

    Raises:
        ConfigError: without `jsonschema`, or for a schema that is none, refers to what is not in
            it, or back to itself for the same value.

    Example:
        >>> po.Target("tiny", po.constraints.json_schema({"type": "integer"}), ["1 + 1 ="], 4)
        Target(CausalLM x [constraint 'JSON Schema'], 1 prompts, max_new_tokens=4)
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        schema = schema.model_json_schema()
    json_text = JsonText(schema)
    return Constraint(
        TextTest("JSON Schema", json_text.allows),
        TextTest("JSON Schema", json_text.may_begin, half=True),
        grammar=Grammar.of_schema(json_text.schema),
        quick=True,
        **calling,
    )

"""A regular expression as a position automaton: one state per character that stands in it.

The automaton of Glushkov (1961) has no empty transitions, and as many states as the pattern has
characters and sets, with what is counted written out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

# The standard library's own parser. It is not public, and what it returns has not changed in shape
# since Python 3.11; the tests compare each kind of part with what the pattern matches.
sre: Any = import_module("re._parser")
op: Any = import_module("re._constants")

CharacterSet = Callable[[str], bool]
MOST_POSITIONS = 2000


class NotRegularError(ValueError):
    """The pattern has parts that a position automaton does not express, or too many positions."""


class Part(NamedTuple):
    """A part of the pattern: the positions that it may begin and end with, as sets of bits, and
    whether it may be empty."""

    first: int
    last: int
    empty: bool


_NOTHING = Part(0, 0, True)


@dataclass
class Positions:
    """`sets[i]` says which characters may stand at position i, and `follow[i]` which positions may
    come next, as bits. `start` are the bits of those that may come first; a text may end at those
    in `ends`, and `empty` says whether the empty text matches."""

    sets: list[CharacterSet] = field(default_factory=list[CharacterSet])
    follow: list[int] = field(default_factory=list[int])
    start: int = 0
    ends: int = 0
    empty: bool = False

    @classmethod
    def of(cls, pattern: str) -> Positions:
        """Raises `NotRegularError` for assertions, references, flags but s, and what `re` cannot
        read."""
        made = cls()
        try:
            parsed = sre.parse(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise NotRegularError(str(error)) from error
        # The flag of texts as str is always there.
        if parsed.state.flags & ~sre.SRE_FLAG_UNICODE:
            raise NotRegularError("flags")
        whole = made._sequence(parsed, dot_all=False)
        made.start, made.ends, made.empty = whole
        return made

    def _sequence(self, items: Any, dot_all: bool) -> Part:
        whole = _NOTHING
        for item in items:
            whole = self._then(whole, self._item(item, dot_all))
        return whole

    def _then(self, before: Part, after: Part) -> Part:
        self._link(before.last, after.first)
        return Part(
            before.first | (after.first if before.empty else 0),
            after.last | (before.last if after.empty else 0),
            before.empty and after.empty,
        )

    def _link(self, last: int, first: int) -> None:
        for at in places(last):
            self.follow[at] |= first

    def _item(self, item: Any, dot_all: bool) -> Part:
        code, given = item
        if code is op.LITERAL or code is op.NOT_LITERAL or code is op.IN or code is op.ANY:
            return self._one(_character_set(code, given, dot_all))
        if code is op.SUBPATTERN:
            _, added, removed, inside = given
            if (added | removed) & ~sre.SRE_FLAG_DOTALL:
                raise NotRegularError("flags")
            return self._sequence(inside, (dot_all or bool(added)) and not removed)
        if code is op.BRANCH:
            parts = [self._sequence(each, dot_all) for each in given[1]]
            first = last = 0
            for part in parts:
                first, last = first | part.first, last | part.last
            return Part(first, last, any(part.empty for part in parts))
        if code is op.MAX_REPEAT or code is op.MIN_REPEAT:
            least, most, inside = given
            return self._repeat(least, most, inside, dot_all)
        raise NotRegularError(str(code))

    def _repeat(self, least: int, most: int, inside: Any, dot_all: bool) -> Part:
        whole = _NOTHING
        for _ in range(least):
            whole = self._then(whole, self._sequence(inside, dot_all))
        if most is op.MAXREPEAT:
            again = self._sequence(inside, dot_all)
            self._link(again.last, again.first)
            return self._then(whole, again._replace(empty=True))
        # a{0,3} is (a(a(a)?)?)?, but linked from left to right.
        for _ in range(most - least):
            more = self._sequence(inside, dot_all)
            whole = self._then(whole, more._replace(empty=True))
        return whole

    def _one(self, characters: CharacterSet) -> Part:
        if len(self.sets) >= MOST_POSITIONS:
            raise NotRegularError(f"more than {MOST_POSITIONS} positions")
        self.sets.append(characters)
        self.follow.append(0)
        bit = 1 << (len(self.sets) - 1)
        return Part(bit, bit, False)


def places(bits: int) -> list[int]:
    """The numbers of the bits that are set."""
    found: list[int] = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return found


def _character_set(code: Any, given: Any, dot_all: bool) -> CharacterSet:
    if code is op.LITERAL:
        return lambda character: ord(character) == given
    if code is op.NOT_LITERAL:
        return lambda character: ord(character) != given
    if code is op.ANY:
        return lambda character: dot_all or character != "\n"
    negated = bool(given) and given[0][0] is op.NEGATE
    tests = [_member(*item) for item in (given[1:] if negated else given)]
    return lambda character: any(test(character) for test in tests) != negated


def _member(code: Any, given: Any) -> CharacterSet:
    if code is op.LITERAL:
        return lambda character: ord(character) == given
    if code is op.RANGE:
        lowest, highest = given
        return lambda character: lowest <= ord(character) <= highest
    if code is op.CATEGORY:
        return _CATEGORIES[given]
    raise NotRegularError(str(code))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _not(test: CharacterSet) -> CharacterSet:
    return lambda character: not test(character)


_CATEGORIES: dict[Any, CharacterSet] = {
    op.CATEGORY_DIGIT: str.isdecimal,
    op.CATEGORY_NOT_DIGIT: _not(str.isdecimal),
    op.CATEGORY_SPACE: str.isspace,
    op.CATEGORY_NOT_SPACE: _not(str.isspace),
    op.CATEGORY_WORD: _is_word,
    op.CATEGORY_NOT_WORD: _not(_is_word),
}


def classes_of(positions: Positions, characters: Sequence[str]) -> tuple[list[int], list[int]]:
    """Characters that every position treats alike form a class: the class of each of `characters`,
    and of each class the positions where it may stand, as bits."""
    number: dict[int, int] = {}
    class_of: list[int] = []
    for character in characters:
        bits = 0
        for at, allowed in enumerate(positions.sets):
            if allowed(character):
                bits |= 1 << at
        class_of.append(number.setdefault(bits, len(number)))
    return class_of, list(number)

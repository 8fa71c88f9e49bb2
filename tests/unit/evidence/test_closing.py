"""The fewest tokens that complete a text, beside a search that tries every continuation."""

from __future__ import annotations

import itertools
import json
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import regex
import torch

import posteriori as po
from posteriori.evidence.automata.automaton import DEAD, Automaton
from posteriori.evidence.automata.closing import NEVER, Closing
from posteriori.evidence.automata.positions import NotRegularError
from posteriori.evidence.grammar import Grammar

outlines: Any = import_module("outlines_core.json_schema")

TOKENS = ["a", "b", "ab", "ba", "(", ")", "b)", None, "1", "\n"]

PATTERNS = [
    "",
    "a",
    "a|b|",
    "(a|b)*",
    "a{2}b{0,2}",
    "(?:ab){2,}",
    r"\([ab]+\)",
    r"\(.*\)",
    r"(?s:\(.*\))",
    r"[^a]+a",
    r"a*?(b)+?",
    r"(?P<name>\w\d)+",
    r"\D\S[\sb]?",
    "(a?b?){3}",
    "((a|b*)1)?",
]


def fewest(pattern: str, text: str, most: int) -> int | None:
    """By trying all continuations of up to `most` tokens."""
    texts = [token for token in TOKENS if token]
    for number in range(most + 1):
        for more in itertools.product(texts, repeat=number):
            if regex.fullmatch(pattern, text + "".join(more)):
                return number
    return None


@cache
def can_go_on(pattern: str, text: str) -> bool:
    """Whether some text of up to four more characters matches, as for these patterns is enough."""
    return any(
        regex.fullmatch(pattern, text + "".join(more))
        for number in range(5)
        for more in itertools.product("ab)1", repeat=number)
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_is_the_fewest_of_all_continuations(pattern):
    closing = Closing(pattern, TOKENS)
    starts = ["", "a", "ab", "(", "(a", "b", "(ab)", "abab", "1", "\n"]
    for start in starts:
        if not can_go_on(pattern, start):
            continue
        for left in range(3):
            late_V = closing.too_late([start], left)[0].tolist()
            for token, late in zip(TOKENS, late_V, strict=True):
                longer = start + (token or "")
                goes_on = bool(token) and can_go_on(pattern, longer)
                wanted = goes_on and fewest(pattern, longer, left) is None
                assert late == wanted, (start, token, left)


def test_one_token_more_or_less_makes_the_difference():
    closing = Closing(r"\([ab]+\)", TOKENS)
    assert closing.too_late(["("], 0)[0, 0]
    assert not closing.too_late(["("], 1)[0, 0]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_automaton_matches_what_the_pattern_matches(pattern):
    automaton = Automaton.of(pattern, "ab()1\n")
    for length in range(4):
        for characters in itertools.product("ab()1\n", repeat=length):
            text = "".join(characters)
            state = automaton.after(text)
            assert bool(automaton.accepts_S[state]) == bool(regex.fullmatch(pattern, text)), text
            assert (state != DEAD) or not can_go_on(pattern, text), text


@pytest.mark.parametrize(
    "pattern",
    [r"\bword", "(?i)a", r"(a)\1", "(?=a)a", "(?>a)", r"\p{L}", "[ab]*a[ab]{24}", "a{3000}"],
)
def test_what_it_cannot_express_is_not_regular(pattern):
    with pytest.raises(NotRegularError):
        Closing(pattern, TOKENS)


def test_a_text_that_the_tokens_cannot_write_is_always_too_late():
    closing = Closing("a+z", TOKENS)
    assert int(closing._needed_SU.max()) == NEVER
    assert closing.too_late([""], 1000)[0].tolist() == [t == "a" for t in TOKENS]


def test_nothing_is_said_of_a_text_that_does_not_match():
    assert not Closing("a+b", TOKENS).too_late(["b", "ç"], 0).any()


@cache
def tiny() -> po.CausalLM:
    return po.load("tiny")


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "tags"],
}


def test_json_is_closed_with_every_bracket():
    """The text that is one token short of its brackets is too late, by a model's tokens."""
    hints: Any = Grammar.of_schema(SCHEMA).hints(tiny())
    text = '{"name": "a", "tags": ["b'
    tokenizer = tiny().tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [tiny().decode([[token]])[0] for token in range(tiny().vocab_size)]
    pattern = outlines.build_regex_from_schema(json.dumps(SCHEMA))
    ends = [regex.fullmatch(pattern, text + piece) is not None for piece in pieces]
    last = hints.too_late([ids], 0)[0]
    assert not any(ends) or not bool(last[torch.tensor(ends)].any())
    # '"', "]" and "}" are three tokens of this model, so two have to be left after the quote.
    quote = pieces.index('"')
    assert [bool(hints.too_late([ids], left)[0, quote]) for left in range(4)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_schema_that_refers_to_itself_is_hinted_at():
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}}}
    hints: Any = Grammar.of_schema(tree).hints(tiny())
    assert hints.likely([[]]).any()
    assert not hints.too_late([[]], 3).any()

"""Ready-made evidence: constraints that also judge prefixes, and likelihoods from classifiers.

A prefix check may say yes too often and never no too often: shown on random texts and patterns, for
every prefix of whatever satisfies the constraint. SMC that prunes by it is compared with
enumeration.
"""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
import regex

import posteriori as po
from posteriori.errors import ConfigError
from posteriori.evidence.text.constraints import _for_prefixes
from posteriori.evidence.text.json_text import JsonText

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}


def holds(constraint: po.Constraint, *texts: str) -> list[bool]:
    return constraint.fn(completions=list(texts), completion_ids=[[1]] * len(texts))


def may_hold(constraint: po.Constraint, *prefixes: str) -> list[bool]:
    return constraint.prefix(completions=list(prefixes), completion_ids=[[1]] * len(prefixes))


def prefixes(text: str) -> list[str]:
    return [text[:end] for end in range(len(text) + 1)]


# Name -> (constraint, texts that satisfy it, texts that do not, prefixes that are dead).
CONSTRAINTS = {
    "regex, whole": (
        lambda: po.constraints.regex(r"(yes|no), \d+\."),
        ["yes, 3.", "no, 12345."],
        ["yes", "yes, 3. ", "maybe, 3."],
        ["m", "yes, x", "yes, 3.!"],
    ),
    "regex, a part": (
        lambda: po.constraints.regex(r"\d{3}", match="search"),
        ["call 911 now", "123"],
        ["12 34", ""],
        [],
    ),
    "regex, from the start": (
        lambda: po.constraints.regex(r"^(Dear|Hello) ", match="search"),
        ["Dear friend", "Hello you"],
        ["Oh Dear me", "Dear"],
        ["Oh", "Dearest"],
    ),
    "regex, ignoring case": (
        lambda: po.constraints.regex("yes.*", flags=regex.IGNORECASE),
        ["YES", "Yes and no"],
        ["no"],
        ["YEA"],
    ),
    "any of some words": (
        lambda: po.constraints.words(any_of=["cat", "ice cream"]),
        ["a Cat!", "ice cream"],
        ["a category", "ice creams", ""],
        [],
    ),
    "none of some words": (
        lambda: po.constraints.words(none_of=["ass", "bad word"]),
        ["assume", "a class", "a bad wording", ""],
        ["ass", "an ass.", "a bad word"],
        ["ass ", "an Ass.", "bad word, "],
    ),
    "words of all kinds": (
        lambda: po.constraints.words(["x", "y"], ["z"], ["v", "w"], case_sensitive=True),
        ["v w x", "y Z w v"],
        ["v x", "v w", "v w x z", "V w x"],
        ["z!", "v w x z "],
    ),
    "length in words": (
        lambda: po.constraints.length(min_words=2, max_words=3),
        ["one two", " one two  three "],
        ["one", "one two three four"],
        ["one two three four", "a b c d e"],
    ),
    "JSON": (
        lambda: po.constraints.json_schema(True),
        ['{"a": [1, -2.5e+3, {"b": null}], "c": "\\u00e9\\n"} ', "[]", "true", ' "x" ', "0", "{ }"],
        ["", "{", "01", "NaN", "[1,]", "{1: 2}", '"a\nb"', "[" * 100_000 + "]" * 100_000],
        ["}", "[,", "{1", '"a" b', "01", "nul1", "[1 2", '{"a",', '"\\x', '"\n', "-a", "1.e", "N"],
    ),
    "JSON Schema": (
        lambda: po.constraints.json_schema(PERSON),
        ['{"name": "Ada", "age": 36}', ' {"name": ""}'],
        ['{"age": 36}', '{"name": 1}', '["name"]', '"name"', '{"name": "Ada"'],
        ["[", '"', " 1", "t", '{"name" "'],
    ),
}


class TestConstraints:
    @pytest.mark.parametrize("name", CONSTRAINTS)
    def test_hold_where_they_should(self, name):
        make, satisfying, breaking, _ = CONSTRAINTS[name]
        constraint = make()
        assert holds(constraint, *satisfying) == [True] * len(satisfying)
        assert holds(constraint, *breaking) == [False] * len(breaking)

    @pytest.mark.parametrize("name", CONSTRAINTS)
    def test_never_rule_out_a_prefix_of_what_satisfies_them(self, name):
        make, satisfying, _, _ = CONSTRAINTS[name]
        constraint = make()
        for text in satisfying:
            assert all(may_hold(constraint, *prefixes(text))), text

    @pytest.mark.parametrize("name", CONSTRAINTS)
    def test_rule_out_dead_prefixes(self, name):
        make, _, _, dead = CONSTRAINTS[name]
        if dead:
            assert may_hold(make(), *dead) == [False] * len(dead)

    def test_count_tokens_with_the_end_of_sequence(self, gpt2):
        completions = gpt2.completions(["a"], [[1, 0], [1, 2, 0], [1], [1, 2, 3]], 3)
        constraint = po.constraints.length(min_tokens=2, max_tokens=2)
        assert constraint.score(completions, {}).reward.tolist() == [1.0, 0.0, 0.0, 0.0]
        assert constraint.prefix_log_evidence(completions, {}).isneginf().tolist() == [
            False,
            True,
            False,
            True,
        ]

    def test_read_the_assistants_message(self, gpt2):
        gpt2.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
        chat = [{"role": "user", "content": "a"}]
        completions = gpt2.completions([chat], [[1, 0], [2, 2, 0]], 3)
        constraint = po.constraints.regex("b b")
        assert constraint.score(completions, {}).reward.tolist() == [0.0, 1.0]

    def test_read_a_schema_from_a_file(self, tmp_path):
        (tmp_path / "person.json").write_text(json.dumps(PERSON))
        assert holds(po.constraints.json_schema(tmp_path / "person.json"), '{"name": "x"}') == [
            True
        ]
        with pytest.raises(ConfigError, match="no schema can be read"):
            po.constraints.json_schema(tmp_path / "nobody.json")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: po.constraints.regex("(a"), "no regular expression"),
            (lambda: po.constraints.regex("a", match="some"), "neither 'full' nor 'search'"),
            (lambda: po.constraints.words(), "there are no words"),
            (lambda: po.constraints.words(any_of="cat"), "is one string"),
            (lambda: po.constraints.words(none_of=["cat", " "]), "is no word"),
            (lambda: po.constraints.length(), "there is no bound"),
            (lambda: po.constraints.length(min_words=3, max_words=2), "no text has from 3 to 2"),
            (lambda: po.constraints.length(min_tokens=-1), "no text has from -1"),
            (lambda: po.constraints.json_schema({"type": "objekt"}), "it is no JSON Schema"),
            (lambda: po.constraints.regex("a", wrokers=2), "did you mean 'workers'"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, make, message):
        with pytest.raises(ConfigError, match=message):
            make()

    def test_take_settings_of_calls(self, gpt2):
        constraint = po.constraints.regex("a", cache=True)
        for _ in range(2):
            constraint.score(gpt2.completions(["a"], [[1, 0]], 3), {})
        assert constraint.counts.cache_hits == 1


def random_pattern(rng: random.Random, depth: int) -> str:
    """Anything that `regex` has, over the letters a and b."""
    kind = rng.random()
    if depth == 0 or kind < 0.25:
        atoms = ["a", "b", ".", "[ab]", "[^a]", r"\w", "a", "b", r"\b", "$", "(?!a)", "(?<=b)"]
        return rng.choice(atoms)
    inner = random_pattern(rng, depth - 1)
    if kind < 0.5:
        return inner + random_pattern(rng, depth - 1)
    if kind < 0.65:
        return f"(?:{inner}|{random_pattern(rng, depth - 1)})"
    if kind < 0.9:
        return f"(?:{inner})" + rng.choice(["*", "+", "?", "*?", "{1,2}", "*+", "?+"])
    return rng.choice([f"({inner})", f"(?>{inner})"])


def wrong_prefixes(patterns, texts) -> list[tuple[str, str]]:
    """Prefixes of texts that match a pattern, and that what judges prefixes rules out."""
    wrong = []
    for pattern, of_prefix in patterns.items():
        compiled, loose = regex.compile(pattern), regex.compile(of_prefix)
        for text in texts:
            if compiled.fullmatch(text):
                wrong += [
                    (pattern, p) for p in prefixes(text) if not loose.fullmatch(p, partial=True)
                ]
    return wrong


def test_no_prefix_of_what_matches_a_random_pattern_is_ruled_out():
    rng = random.Random(0)
    texts = ["".join(each) for size in range(5) for each in itertools.product("ab ", repeat=size)]
    patterns = {random_pattern(rng, 4) for _ in range(1500)}
    checked = {each for each in patterns if po.constraints.regex(each).prefix is not None}
    assert len(checked) > 300
    loose = {each: _for_prefixes(each, 0) for each in checked}
    assert not wrong_prefixes(loose, texts)
    around = {each: each for each in checked if loose[each] != each}
    assert len(around) > 100
    assert wrong_prefixes(around, texts), "assertions have to be left out"


def random_json(rng: random.Random, depth: int):
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [random_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {random_text(rng): random_json(rng, depth - 1) for _ in range(rng.randrange(4))}
    return [None, rng.random() < 0.5, rng.randrange(-99, 99), rng.gauss(0, 1e9), random_text(rng)][
        kind
    ]


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice('ab"\\/\n\té☕') for _ in range(rng.randrange(6)))


def test_every_prefix_of_random_json_may_become_json():
    rng, json_text = random.Random(1), JsonText(True)
    for _ in range(300):
        text = json.dumps(
            random_json(rng, 3), indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5
        )
        assert json_text.allows(text)
        assert all(map(json_text.may_begin, prefixes(text))), text


def test_every_text_over_jsons_own_letters_is_judged_as_by_pythons_parser():
    """All 7^5 texts: whole ones are JSON when Python says so; and how a JSON text of at most five
    letters begins is never ruled out, while what is ruled out begins none of them."""
    json_text = JsonText(True)
    letters = '[],"1{:'
    texts = ["".join(each) for size in range(6) for each in itertools.product(letters, repeat=size)]
    allowed = {text for text in texts if json_text.allows(text)}
    assert len(allowed) > 50
    alive = {prefix for text in allowed for prefix in prefixes(text)}
    assert all(map(json_text.may_begin, alive))
    ruled_out = [text for text in texts if not json_text.may_begin(text)]
    assert len(ruled_out) > len(texts) / 2
    assert not alive.intersection(ruled_out)


def test_half_a_character_at_the_end_of_a_prefix_is_left_out():
    tiny = po.load("tiny")
    text = "caf\u00e9 \u2615 na\u00efve"
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    begun = [tiny.decode([ids[:end]])[0] for end in range(1, len(ids) + 1)]
    whole = begun[-1]
    assert any(not whole.startswith(each) for each in begun), "some token ends inside a character"
    constraint = po.constraints.regex(regex.escape(whole))
    assert holds(constraint, whole) == [True]
    assert all(may_hold(constraint, *begun))


# Name -> (words of a table, its constraint), of which few outcomes satisfy it.
PRUNED = {
    "regex": (("<eos>", "a", "b", "c"), lambda: po.constraints.regex(r"a( b)* c")),
    "words": (("<eos>", "a", "b", "c"), lambda: po.constraints.words(["b"], ["a", "c b"])),
    "length": (("<eos>", "a", "b", "c"), lambda: po.constraints.length(2, 3, max_words=2)),
    "JSON": (
        ("<eos>", "[", "]", "1", ","),
        lambda: po.constraints.json_schema({"type": "array"}),
    ),
}


@pytest.mark.parametrize("name", PRUNED)
def test_smc_that_prunes_by_prefixes_has_the_exact_z(name):
    """|mean Z-hat - Z| < 5.5 standard errors over 400 populations: a false alarm in 2.6e7; they
    find a Z that is 30% off with the same certainty, as each test checks on its own error bar."""
    words, make = PRUNED[name]
    prior = po.TabularLM.random(words, 4, ("x",), seed=2)
    target = po.Target(prior, make(), ("x",), 4)
    log_z = float(po.exact(target).log_z[0])
    drawn = po.sample(target, "smc", 64_000, seed=4, replicates=400, twist="prefix")
    error = drawn.log_z.standard_error * math.exp(drawn.log_z.value - log_z)
    assert abs(math.expm1(drawn.log_z.value - log_z)) < 5.5 * error
    assert 2 * 5.5 * error < 0.3


def test_a_prefix_check_that_says_no_too_often_is_caught():
    """A mutant: what does not satisfy the words yet is taken for what never will."""
    prior = po.TabularLM.random(("<eos>", "a", "b", "c"), 4, ("x",), seed=2)
    whole = po.constraints.words(any_of=["b"]).fn
    target = po.Target(prior, po.Constraint(whole, whole), ("x",), 4)
    log_z = float(po.exact(target).log_z[0])
    drawn = po.sample(target, "smc", 64_000, seed=4, replicates=400, twist="prefix")
    error = drawn.log_z.standard_error * math.exp(drawn.log_z.value - log_z)
    assert math.expm1(drawn.log_z.value - log_z) < -5.5 * error


def test_pruning_by_prefixes_helps():
    """The variance of Z-hat without it is over twice as large."""
    words, make = PRUNED["JSON"]
    target = po.Target(po.TabularLM.random(words, 4, ("x",), seed=2), make(), ("x",), 4)
    steered, plain = (
        po.sample(
            target, "smc", 8_000, seed=4, replicates=400, twist=twist, lookahead=0
        ).log_z.standard_error
        for twist in ("prefix", "none")
    )
    assert 2 * steered**2 < plain**2

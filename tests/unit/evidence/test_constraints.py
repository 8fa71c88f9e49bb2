"""Constraints: literals that look like assertions keep the prefix check, and smc uses it."""

from __future__ import annotations

import pytest

import posteriori as po
from posteriori.models.tabular import TabularLM
from posteriori.samplers.smc.smc import twist_for

LITERAL = [
    r"\{a\}",
    r"cost: \$\d+",
    r"[$^]x",
    r"\p{L}+",
    r"[0-9]{3}-[0-9]{4}",
    r"[\]$]",
    r"(?i)\$\{[a-z]+\}",
]
LOOKING = ["(?x) a # [ \n b$", r"(?:foo){e<=1}", r"(a)(?=b)\1", r"(?(?=a)b|c)"]
AROUND = {
    r"a$": ("a", "b"),
    r"^[0-9]{3}$": ("12", "x"),
    r"\bfoo\b.*": ("foo", "a"),
    r"(?=a)[ab]c": ("a", "d"),
    r"(?!(b|c(d)))[a-c]x": ("a", "d"),
    r"[ab]+(?<=a)c": ("ab", "c"),
    r"\\$": ("\\", "a"),
    r"\[$": ("[", "]"),
    r"a\Z": ("a", "b"),
}


@pytest.mark.parametrize("pattern", LITERAL)
def test_escaped_characters_keep_the_prefix_check(pattern):
    constraint = po.constraints.regex(pattern)
    assert constraint.prefix is not None


@pytest.mark.parametrize("pattern", LOOKING)
def test_what_looks_ahead_has_none(pattern):
    assert po.constraints.regex(pattern).prefix is None


@pytest.mark.parametrize("pattern", AROUND)
def test_assertions_count_as_true_of_a_prefix(pattern):
    alive, dead = AROUND[pattern]
    constraint = po.constraints.regex(pattern)
    assert constraint.prefix is not None
    assert constraint.prefix([alive, dead]) == [True, False]


def test_an_escaped_brace_prunes_rightly():
    constraint = po.constraints.regex(r"\{a+\}\$")
    assert constraint.prefix(["{a", "{aa}", "{b", "x", ""]) == [True, True, False, False, True]


def target(constraint):
    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a"], seed=0, max_new_tokens=3)
    return po.Target(table, constraint, ["a"], 3)


def never_y(completions, **kwargs):
    return ["y" not in text for text in completions]


def test_smc_picks_the_twist_that_a_constraint_has():
    with_prefix = target(po.Constraint(never_y, prefix=never_y))
    without = target(po.Constraint(never_y))
    assert twist_for(with_prefix).name == "prefix"
    assert twist_for(without).name == "none"
    own = po.sample(with_prefix, "smc", num_samples=64, seed=1)
    named = po.sample(with_prefix, "smc", num_samples=64, seed=1, twist="prefix")
    assert own.log_weight.tolist() == named.log_weight.tolist()
    exact = po.exact(with_prefix).log_z[0]
    draws = po.sample(with_prefix, "smc", num_samples=4000, replicates=40, seed=2)
    # 40 independent populations: five errors of their mean, by Student's t a false alarm of 1e-5
    # per error bar; the seed is fixed.
    assert abs(draws.log_z.value - exact) < 6 * draws.log_z.standard_error + 1e-3

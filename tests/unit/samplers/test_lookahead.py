"""Next tokens that were checked beforehand: exact whatever is checked, and nothing dies needlessly.

No randomness in the first part: a table, and every path of a run of SMC, summed.
"""

from __future__ import annotations

from dataclasses import replace

import pydantic
import pytest
import torch
from test_smc_exact import PROMPTS, off_target, reward

import posteriori as po
from posteriori.errors import ConfigError
from posteriori.samplers.smc import lookahead
from posteriori.samplers.smc.lookahead import Lookahead
from posteriori.samplers.smc.make_twist import make_twist
from posteriori.samplers.smc.populations import Plan
from posteriori.testing.worlds import WORDS

B = 2


class OneToken:
    """A grammar that lets one token through, whatever came before."""

    def __init__(self, token: int) -> None:
        self.token = token

    def hints(self, lm):
        return self

    def likely(self, prefixes):
        likely_DV = torch.zeros(len(prefixes), len(WORDS), dtype=torch.bool)
        likely_DV[:, self.token] = True
        return likely_DV

    def too_late(self, prefixes, left):
        return None


class TooLate(OneToken):
    """And says of one token that nothing can follow it in time."""

    def __init__(self, token: int, late: int) -> None:
        super().__init__(token)
        self.late = late

    def too_late(self, prefixes, left):
        late_DV = torch.zeros(len(prefixes), len(WORDS), dtype=torch.bool)
        late_DV[:, self.late] = True
        return late_DV


class Nothing(OneToken):
    def likely(self, prefixes):
        return torch.zeros(len(prefixes), len(WORDS), dtype=torch.bool)


def some_b(completion_ids, **kwargs):
    return [B in y for y in completion_ids]


def may_have_b(completion_ids, **kwargs):
    return [B in y or len(y) < 2 for y in completion_ids]


def plan(most: int, grammar=None, depth: int = 2, threshold: float = 1.0) -> Plan:
    prior = po.TabularLM.random(WORDS, depth, PROMPTS, seed=3)
    constraint = po.Constraint(some_b, prefix=may_have_b, grammar=grammar, quick=True)
    target = po.Target(prior, [po.Reward(reward, beta=0.7), constraint], PROMPTS, depth)
    prefix = make_twist("prefix")
    return Plan(target, prior, prefix, "systematic", threshold, lookahead=most)


GRAMMARS = {
    "no grammar": None,
    "right": OneToken(B),
    "wrong": OneToken(1),
    "knows nothing": Nothing(0),
}
LATE = {
    "too late for another": TooLate(B, 1),
    "wrongly too late": TooLate(1, B),
    "too late for all that it lets through": TooLate(B, B),
}


@pytest.mark.parametrize("threshold", [1.0, 0.8], ids=["always", "adaptive"])
@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
@pytest.mark.parametrize("most", [1, 2, 3])
def test_it_is_properly_weighted_whatever_is_checked(most, grammar, threshold):
    assert off_target(plan(most, grammar, threshold=threshold), sizes=(1,)) < 1e-8


@pytest.mark.parametrize("grammar", LATE.values(), ids=LATE)
@pytest.mark.parametrize("most", [1, 3])
def test_it_is_whatever_is_said_to_be_too_late(most, grammar):
    """Where all else is checked, and where a token is drawn of each of the three kinds."""
    assert off_target(plan(most, grammar, depth=1), sizes=(1,)) < 1e-8


class TooLateAtTheEnd(TooLate):
    def too_late(self, prefixes, left):
        return None if left else super().too_late(prefixes, left)


def test_it_is_where_the_last_token_is_too_late():
    assert off_target(plan(3, TooLateAtTheEnd(B, 1)), sizes=(1,)) < 1e-8


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
@pytest.mark.parametrize("most", [1, 3])
def test_it_is_where_no_next_token_fits(most, grammar):
    """The prefix check promises too much: after most first tokens nothing can come right."""
    made = plan(most, grammar)
    only = po.Constraint(
        lambda completion_ids, **_: [y == [1, B] for y in completion_ids],
        prefix=lambda completion_ids, **_: [True] * len(completion_ids),
        grammar=grammar,
    )
    made = replace(made, target=po.Target(made.target.prior, only, PROMPTS, 2))
    assert off_target(made, sizes=(1,)) < 1e-8


@pytest.mark.long
def test_it_is_with_two_particles():
    assert off_target(plan(1)) < 1e-8


class WithoutTheRest(Lookahead):
    """What was not checked counts as ruled out."""

    def _another(self, *given):
        x = super()._another(*given)
        return x._replace(log_w_L=torch.full_like(x.log_w_L, -torch.inf))


def test_forgetting_the_rest_is_found(monkeypatch):
    monkeypatch.setattr("posteriori.samplers.smc.populations.Lookahead", WithoutTheRest)
    assert off_target(plan(1), sizes=(1,)) > 1e-3


def test_a_share_that_is_not_weighed_is_found(monkeypatch):
    real = lookahead.or_outside

    def unweighed(inside, outside, most, choices):
        sum_L = torch.logaddexp(inside.log_w_L, outside.log_w_L)
        return real(inside, outside, most, choices)._replace(log_w_L=sum_L)

    monkeypatch.setattr(lookahead, "or_outside", unweighed)
    assert off_target(plan(3, OneToken(1)), sizes=(1,)) > 1e-3


def test_what_is_too_late_and_not_weighed_is_found(monkeypatch):
    """The third draw carries the mass of what was called too late."""
    real = lookahead.or_outside

    def without(inside, outside, most, choices):
        return inside if most < 1e-3 else real(inside, outside, most, choices)

    monkeypatch.setattr(lookahead, "or_outside", without)
    assert off_target(plan(3, TooLate(1, B), depth=1), sizes=(1,)) > 1e-3


def alive(target: po.Target, **settings) -> float:
    draws = po.sample(target, "smc", 64, seed=0, **settings)
    return float((draws.log_weight > -torch.inf).double().mean())


def rare() -> po.Target:
    """A telephone number, which the prior hardly ever says."""
    prior = po.load("tiny")
    constraint = po.constraints.regex(r"[0-9]{3}-[0-9]{4}")
    return po.Target(prior, constraint, ["Call me at", "My number is"], 24)


def test_no_particle_dies_where_the_grammar_knows():
    target = rare()
    assert alive(target, lookahead=0) < 0.5
    assert alive(target) == 1.0


@pytest.mark.parametrize(
    "pattern", [r"\([a-z ]+\)", r"[A-Za-z ,]+\.", r'"[a-z ]+", "[a-z ]+"', "(?:[a-z]+ ){3,}end"]
)
def test_a_pattern_is_closed_by_the_last_token(pattern):
    """None of them ends by itself: the prior goes on, and at the limit it is too late."""
    target = po.Target(po.load("tiny"), po.constraints.regex(pattern), ["He said "], 10)
    assert alive(target, lookahead=0) < 0.5
    assert alive(target) == 1.0


def test_a_found_word_is_found_by_the_last_token():
    target = po.Target(
        po.load("tiny"), po.constraints.regex("banana", match="search"), ["I like "], 12
    )
    assert alive(target, lookahead=0) < 0.5
    assert alive(target) == 1.0


class Size(pydantic.BaseModel):
    width: int = pydantic.Field(ge=0, le=99)


class Box(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=8)
    size: Size


def test_a_pydantic_model_with_nested_objects_keeps_most_particles():
    """Few leave the grammar, and most of the others come to an end."""
    box = po.constraints.json_schema(Box)
    draws = po.sample(po.Target(po.load("tiny"), box, ["A box:"], 64), "smc", 64, seed=0)
    right = [text for text, w in zip(draws.texts, draws.log_weight, strict=True) if w > -torch.inf]
    assert len(right) >= 48
    assert all(Box.model_validate_json(text) for text in right)


def test_every_draw_satisfies_the_constraint():
    draws = po.sample(rare(), "smc", 16, seed=1)
    assert all(len(text) == 8 and text[3] == "-" for text in draws.texts)


def test_lookahead_without_a_prefix_check_is_refused():
    target = rare()
    blind = po.Target(target.prior, po.Constraint(lambda completions, **_: [True]), ["x"], 3)
    with pytest.raises(ConfigError, match="lookahead checks next tokens"):
        po.sample(blind, "smc", 4, lookahead=8)


def test_what_users_write_is_not_asked_more_often_than_before():
    """A prefix check of unknown cost is asked once for a token, unless more is wanted."""
    asked = []

    def prefix(completions, **_):
        asked.append(len(completions))
        return [True] * len(completions)

    constraint = po.Constraint(lambda completions, **_: [True] * len(completions), prefix)
    target = po.Target(po.load("tiny"), constraint, ["You are"], 4)
    po.sample(target, "smc", 8, seed=0)
    assert max(asked) <= 8
    asked.clear()
    po.sample(target, "smc", 8, seed=0, lookahead=32)
    assert max(asked) > 8


def test_a_plan_without_lookahead_is_what_it_was():
    assert off_target(replace(plan(1), lookahead=0), sizes=(1,)) < 1e-8

"""What watchers are told: how much of a computation is done, and never anything that changes it."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_lm

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.run.progress import advance, counted_by, one_pass, portions
from posteriori.evidence.judge.judge import Judge
from posteriori.reward_models.simulate_preferences import simulate_preferences

PROMPTS = ["a b", "c"]
LENGTH = 4


def count_a(completions, **_):
    return [float(text.count("a")) for text in completions]


@pytest.fixture(scope="module")
def prior():
    return tiny_lm("gpt2")


@pytest.fixture
def target(prior):
    return po.Target(prior, po.Reward(count_a, beta=0.5), PROMPTS, LENGTH)


class Told(list):
    """An `on_progress` that keeps what it was told, as stages that each begin at fewer."""

    def __call__(self, done: int, total: int) -> None:
        assert 0 <= done <= total
        assert total > 0
        self.append((done, total))

    @property
    def stages(self) -> list[list[int]]:
        found: list[list[int]] = [[]]
        for done, _ in self:
            if found[-1] and done < found[-1][-1]:
                found.append([])
            found[-1].append(done)
        return found


def test_a_pass_counts_what_is_told_within_it_and_no_more():
    told = Told()
    with one_pass(told, 10):
        advance(2.5)
        advance(0.6)
        with counted_by(1 / 4):
            advance(8)
        advance(100)
    advance(1)
    assert told == [(2, 10), (3, 10), (5, 10), (10, 10), (10, 10)]


def test_a_pass_within_a_pass_is_its_own():
    outer, inner = Told(), Told()
    with one_pass(outer, 4):
        with one_pass(inner, 2):
            advance(1)
        with one_pass(None, 2):
            advance(3)
    assert inner == [(1, 2), (2, 2)]
    assert outer == [(3, 4), (4, 4)]


def test_a_pass_that_fails_is_not_done():
    told = Told()

    def fail() -> None:
        with one_pass(told, 4):
            advance(1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    advance(1)
    assert told == [(1, 4)]


def test_portions_of_a_whole_in_units_of_their_own():
    told = Told()
    first, none, last = portions(told, [6, 0, 4])
    for part in (first, none, last):
        assert part is not None
        part(1, 2)
        part(2, 2)
    assert told == [(3, 10), (6, 10), (6, 10), (6, 10), (8, 10), (10, 10)]
    assert portions(None, [1, 2]) == [None, None]


@pytest.mark.parametrize("own", [True, False], ids=["prior", "policy"])
@pytest.mark.parametrize("memory_gib", [1.5, 1e-6], ids=["at once", "row by row"])
def test_drawing_is_told_token_by_token_and_stays_what_it_is(target, own, memory_gib):
    lm = target.prior if own else tiny_lm("gpt2", seed=1)
    before, lm.memory_gib = lm.memory_gib, memory_gib
    told = Told()
    watched = draw(target, lm, 5, torch.Generator().manual_seed(1), on_progress=told)
    alone = draw(target, lm, 5, torch.Generator().manual_seed(1))
    lm.memory_gib = before
    assert torch.equal(watched.completions.tokens_NL, alone.completions.tokens_NL)
    assert torch.equal(watched.log_prior_N, alone.log_prior_N)
    number = 5 * len(PROMPTS)
    (stage,) = told.stages
    assert {total for _, total in told} == {(2 if own else 3) * number}
    assert stage[-1] == told[-1][1]
    # The draws themselves are told in more than one piece, and are all that is told before scoring.
    assert len([done for done in stage if 0 < done < number]) > 1
    assert number in stage


def test_every_row_of_the_model_is_counted_once(prior):
    """Without the clip at a pass's end: rows that end early count as whole ones."""
    done = []
    for memory_gib in (1.5, 1e-6):
        before, prior.memory_gib = prior.memory_gib, memory_gib
        total = 0.0

        def count(more, _):
            nonlocal total
            total = more

        with one_pass(count, 10**9):
            drawn = prior.sample(PROMPTS, 7, LENGTH, torch.Generator().manual_seed(0))
            drawn_so_far = total
            prior.log_prob(drawn)
            done.append((drawn_so_far, total))
        prior.memory_gib = before
    # int() of a sum of fractions may fall one short.
    for drawn_so_far, both in done:
        assert 13 <= drawn_so_far <= 14
        assert 27 <= both <= 28


def test_a_judge_counts_completions_and_not_answers(prior):
    judge = Judge(prior, "a", yes="a", no="b", template="{completion}")
    completions = prior.sample(PROMPTS, 6, LENGTH, torch.Generator().manual_seed(0))
    asked = len(
        {judge.text(p, t) for p, t in zip(completions.prompts, completions.texts, strict=True)}
    )
    told = Told()
    with one_pass(told, 10**6):
        judge.score(completions, {})
    assert asked - 1 <= told[-2][0] <= asked


def test_a_pool_counts_chunk_by_chunk(prior):
    target = po.Target(
        prior, po.Reward(count_a, beta=0.5, workers=2, chunk_size=2), PROMPTS, LENGTH
    )
    told = Told()
    draw(target, prior, 4, torch.Generator().manual_seed(0), on_progress=told)
    assert {10, 12, 14, 16} <= {done for done, _ in told}


@pytest.mark.parametrize("given", [True, False], ids=["given prior draws", "its own"])
def test_evaluating(target, prior, given):
    policy = tiny_lm("gpt2", seed=1)
    drawn = None
    if given:
        drawn = draw(target, prior, 6, torch.Generator().manual_seed(0))
    told = Told()
    report = po.evaluate(target, policy, 6, prior_draws=drawn, on_progress=told)
    (stage,) = told.stages
    # Drawing, scoring and judging the policy's; (drawing and judging the prior's;) scoring them.
    assert {total for _, total in told} == {12 * (4 if given else 6)}
    assert stage[-1] == told[-1][1]
    # As text, in which figures that are NaN are equal.
    assert str(dict(report)) == str(dict(po.evaluate(target, policy, 6, prior_draws=drawn)))
    alone = Told()
    po.evaluate(target, prior, 6, on_progress=alone)
    assert alone[-1] == (24, 24)


def test_the_frontier_begins_again_with_each_stage(target):
    told = Told()
    curve = po.frontier(target, 600, stages=1, on_progress=told)
    assert any(point.source == "annealed" for point in curve.points)
    assert len(told.stages) >= 2
    assert max(told.stages[0]) == 2 * 600 * len(PROMPTS)
    done, total = told[-1]
    assert done == total
    again = po.frontier(target, 600, stages=1)
    assert [p.kl for p in again.points] == [p.kl for p in curve.points]


def test_the_search_for_a_beta(prior):
    target = po.Target(prior, po.Reward(count_a), PROMPTS, LENGTH)
    told = Told()
    po.fit(
        target,
        steps=1,
        num_samples=2,
        kl_budget=0.05,
        budget_samples=200,
        on_note=lambda _: None,
        on_search=told,
    )
    assert max(told.stages[0]) == 2 * 200 * len(PROMPTS)


def test_moments_begin_again_with_each_round(prior):
    moments = po.Moments({"a": (count_a, 1.6)}, num_samples=1000, method="draws")
    told = Told()
    found = po.fit_moments(po.Target(prior, moments, PROMPTS, LENGTH), on_progress=told)
    assert found.rounds > 1
    assert len(told.stages) >= found.rounds
    assert told[-1][0] == told[-1][1]


def test_simulated_pairs(prior):
    # The tiny model's words need a space between prompt and completion.
    target = po.Target(prior, po.Reward(count_a, beta=0.5), ["a ", "b "], LENGTH)
    told = Told()
    rows = simulate_preferences(target, 31, on_progress=told)
    assert len(rows) == 31
    (stage,) = told.stages
    assert stage[-1] == 31
    assert rows == simulate_preferences(target, 31)

"""Verifiable rewards: Z is the prior's pass@1, and pass@k is right by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import posteriori as po
from posteriori.diagnostics.evaluate.pass_at_k import _mean
from posteriori.errors import ConfigError, EvidenceError
from posteriori.models.tabular import TabularLM


def correct(completions, **kwargs):
    return [text.startswith("x") for text in completions]


@pytest.fixture
def target():
    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=0, max_new_tokens=2)
    return po.Target(table, po.Verifier(correct), ["a", "b"], 2)


def test_z_is_pass_at_1_and_the_kl_is_its_log(target):
    exact = po.exact(target)
    one = po.pass_at_k(target, num_samples=4000, k=[1], seed=1)["prior"].figures[1]
    # Two independent binomial means: 6 errors are a false alarm of 2e-9.
    for log_z, each in zip(exact.log_z, one.per_prompt, strict=True):
        assert abs(math.exp(log_z) - each.value) < 6 * each.standard_error
    of_target = exact.evaluate_target()
    assert of_target["kl_to_prior"] == pytest.approx(-exact.log_z, abs=1e-12)
    assert of_target["mean_reward"] == pytest.approx(1.0)


def test_pass_at_k_is_unbiased_by_enumeration():
    num, p = 5, 0.3
    for k in (1, 2, 3, 5):
        expected = 0.0
        for c in range(num + 1):
            chance = math.comb(num, c) * p**c * (1 - p) ** (num - c)
            expected += chance * _mean(torch.tensor([c]), num, k).value
        assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    for c, k in itertools.product(range(num + 1), range(1, num + 1)):
        wanted = 1 - math.comb(num - c, k) / math.comb(num, k)
        assert _mean(torch.tensor([c]), num, k).value == pytest.approx(wanted, abs=1e-12)


def test_prior_policy_and_target_side_by_side(target):
    better = TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=3, max_new_tokens=2)
    found = po.pass_at_k(target, {"mine": better}, num_samples=64)
    assert list(found) == ["prior", "mine", "target"]
    assert found["target"].figures[1].value == 1.0
    assert found["target"].figures[1].kind == "lower_bound"
    for each in found.values():
        values = [figure.value for figure in each.figures.values()]
        assert values == sorted(values)
        assert "of 2 prompts solved" in str(each)
    assert 0 <= po.newly_solved(found["prior"], found["mine"]) <= 1


def test_an_unsolved_prompt_is_bounded_by_the_rule_of_three():
    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a"], seed=0, max_new_tokens=1)
    target = po.Target(
        table, po.Verifier(lambda completions, **_: [0] * len(completions)), ["a"], 1
    )
    prior = po.pass_at_k(target, num_samples=300, k=[1])["prior"]
    assert prior.solved == 0
    assert prior.unsolved_bound == pytest.approx(3 / 300, rel=0.01)
    assert prior.interval(0)[0] == 0.0
    assert prior.interval(0)[1] == pytest.approx(1 - 0.025 ** (1 / 300))
    assert prior.figures[1].value == 0.0
    assert prior.figures[1].standard_error > 0
    assert math.isnan(po.newly_solved(prior, prior))


def chances(num: int, p: float) -> torch.Tensor:
    """Of each number of correct draws."""
    return torch.tensor([math.comb(num, c) * p**c * (1 - p) ** (num - c) for c in range(num + 1)])


@pytest.mark.parametrize(("num", "k"), [(8, 1), (8, 8), (24, 4), (100, 1), (100, 8)])
def test_pass_at_k_covers_and_is_not_wrong_in_silence_by_enumeration(num, k):
    """Of all numbers of correct draws, whatever the probability: no sampling."""
    each = [_mean(torch.tensor([c]), num, k) for c in range(num + 1)]
    value = torch.tensor([e.value for e in each])
    error = torch.tensor([e.standard_error for e in each])
    # As it was: the delta method at a rate that is half a draw off 0 and 1.
    rate = (torch.arange(num + 1) + 0.5) / (num + 1)
    delta = k * (1 - rate) ** (k - 1) * (rate * (1 - rate) / num).sqrt()
    worst = {"own": 0.0, "delta": 0.0}
    for p in torch.linspace(0.002, 0.998, 499).tolist():
        off = (value - (1 - (1 - p) ** k)).abs()
        mass = chances(num, p)
        assert float(mass[off <= 1.96 * error].sum()) >= 0.95 - 1e-9
        for name, of in (("own", error), ("delta", delta)):
            worst[name] = max(worst[name], float(mass[off > 5 * of].sum()))
    limit = 0.01 if num >= 100 else 0.05
    assert worst["own"] <= limit
    assert worst["delta"] > worst["own"]


def test_what_the_prior_never_solved_the_target_may_still_have():
    """p* has pass@k 1 or 0 there: the value is a bound, and its error unknown."""
    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=0, max_new_tokens=1)

    def only_a(prompts, **kwargs):
        return [prompt == "a" for prompt in prompts]

    target = po.Target(table, po.Verifier(only_a), ["a", "b"], 1)
    found = po.pass_at_k(target, num_samples=20, k=[1])["target"]
    assert found.figures[1].value == 0.5
    assert math.isnan(found.figures[1].standard_error)
    assert "± 0" not in str(found)
    assert "the others 0 or 1" in str(found)


def test_a_grade_is_refused_and_none_is_not_correct(target):
    lm = target.prior
    graded = po.Target(lm, po.Verifier(lambda completions, **_: [0.5] * len(completions)), ["a"], 2)
    with pytest.raises(EvidenceError, match=r"partial grades are for posteriori\.Reward"):
        po.evaluate(graded, lm, num_samples=4)
    unknown = po.Target(
        lm, po.Verifier(lambda completions, **_: [None] * len(completions)), ["a"], 2
    )
    assert po.pass_at_k(unknown, num_samples=4, k=[1])["prior"].solved == 0
    reward = po.Target(
        lm, po.Reward(lambda completions, **_: [0.5] * len(completions), 1.0), ["a"], 2
    )
    with pytest.raises(ConfigError, match=r"use posteriori\.Verifier"):
        po.pass_at_k(reward, num_samples=4, k=[1])
    with pytest.raises(ConfigError, match="must be from 1 to num_samples=4"):
        po.pass_at_k(target, num_samples=4, k=[8])


def test_fits_and_samples_by_a_verifier(target):
    fit = po.fit(target, "dpg", steps=60, num_samples=64, learning_rate=0.2, seed=0)
    before = po.exact(target).evaluate(target.prior)["mean_reward"].mean()
    after = po.exact(target).evaluate(fit.policy)["mean_reward"].mean()
    assert after > before
    assert set(po.sample(target, "rejection", num_samples=8).reward_N.tolist()) == {1.0}

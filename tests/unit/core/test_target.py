"""The target: parts that add up, tempering, columns and prompts."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import generator, has_c, reward

import posteriori as po


@pytest.fixture
def target(gpt2) -> po.Target:
    return po.Target(gpt2, [po.Reward(reward, beta=0.5), po.Constraint(has_c)], ["a", "b c"], 3)


@pytest.fixture
def drawn(target) -> po.Completions:
    return target.prior.sample(target.prompts, 40, 3, generator())


def test_the_parts_of_the_log_density_add_up(target, drawn):
    density = target.log_density(drawn)
    torch.testing.assert_close(density.prior, drawn.log_prob_N, rtol=0, atol=1e-5)
    rewards = torch.tensor(reward(drawn.completion_ids), dtype=torch.float64)
    allowed = torch.tensor(has_c(drawn.completion_ids))
    assert 0 < int(allowed.sum()) < len(drawn)
    expected = (rewards / 0.5).masked_fill(~allowed, -math.inf)
    torch.testing.assert_close(density.evidence, expected)
    assert torch.equal(density.total, density.prior + density.evidence)
    assert not density.total.requires_grad


def test_the_reward_is_that_of_the_rewards_alone(target, drawn):
    """A yes-or-no answer does not add up with points."""
    rewards = torch.tensor(reward(drawn.completion_ids), dtype=torch.float64)
    torch.testing.assert_close(target.score(drawn).reward, rewards)
    only_constraint = po.Target(target.prior, po.Constraint(has_c), target.prompts, 3)
    assert set(only_constraint.score(drawn).reward.tolist()) == {0.0, 1.0}


def test_a_single_piece_of_evidence_needs_no_list(gpt2):
    assert len(po.Target(gpt2, po.Constraint(has_c), ["a"], 2).evidence) == 1


def test_no_evidence_at_all_is_the_prior(gpt2):
    exact = po.exact(po.Target(gpt2, [], ["a"], 3))
    assert abs(exact.log_z[0]) < 1e-9
    assert exact.evaluate(gpt2)["kl_to_target"][0] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("t", [0.25, 1.0, 2.0])
def test_tempering_scales_the_evidence(target, drawn, t):
    tempered = target.tempered(t).log_density(drawn)
    torch.testing.assert_close(tempered.evidence, t * target.log_density(drawn).evidence)
    torch.testing.assert_close(tempered.prior, target.log_density(drawn).prior)


def test_tempering_to_nothing_frees_what_was_forbidden(target, drawn):
    assert torch.equal(target.tempered(0.0).log_density(drawn).evidence, torch.zeros(80).double())


def test_tempering_composes(target, drawn):
    twice = target.tempered(0.5).tempered(0.5).log_density(drawn)
    torch.testing.assert_close(twice.total, target.tempered(0.25).log_density(drawn).total)


def test_columns_are_found_by_prompt_and_not_by_order(gpt2):
    seen = []

    def fn(prompts, completions, wanted, **kwargs):
        seen.extend(zip(prompts, wanted, strict=True))
        return [0.0] * len(completions)

    target = po.Target(gpt2, po.Reward(fn, beta=1.0), ["a", "b"], 2, columns={"wanted": ["A", "B"]})
    target.score(gpt2.completions(["b", "a", "b"], [[0], [0], [1, 2]], 2))
    assert seen == [("b", "B"), ("a", "A"), ("b", "B")]


def test_repeated_prompts_without_columns_are_fine(gpt2):
    target = po.Target(gpt2, po.Reward(reward, beta=1.0), ["a", "a"], 2)
    exact = po.exact(target)
    assert exact.log_z[0] == exact.log_z[1]
    assert len(po.evaluate(target, gpt2, num_samples=10)["log_z"].per_prompt) == 2


def test_draws_of_a_repeated_prompt_are_told_apart(gpt2):
    target = po.Target(gpt2, po.Reward(reward, beta=1.0), ["a", "b", "a"], 2)
    drawn = po.sample(target, "importance", 3)
    assert drawn.completions.prompt_index_N.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert target.prompt_positions(drawn.completions).tolist() == [0] * 3 + [1] * 3 + [2] * 3
    read = gpt2.completions(["b", "a"], [[0], [0]], 2)
    assert target.prompt_positions(read).tolist() == [1, 2]


def test_the_cost_of_draws_is_counted(target):
    report = po.evaluate(target, target.prior, num_samples=10)
    lengths = int(report.draws.completions.lengths_N.sum())
    assert report.cost.lm_tokens == lengths + 1 + 2
    assert report.cost.evidence_calls == 2 * 20
    assert report.cost.seconds > 0

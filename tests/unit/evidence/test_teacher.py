"""A teacher as evidence: the line from the prior through it, by enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import WORDS, reward, tiny_lm

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError, ModelError

EXACT = 1e-8


@pytest.fixture
def teacher() -> po.TabularLM:
    return po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=6)


@pytest.fixture
def second() -> po.TabularLM:
    return po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=7)


def written_out(parts, at: int) -> torch.Tensor:
    """log p* of a product of powers: [(log p of every outcome by prompt, power)]."""
    return sum(power * log_p[at] for log_p, power in parts).log_softmax(0)


@pytest.mark.parametrize("weight", [1.0, 0.5, 1.7, -0.4])
def test_the_target_is_on_the_line_from_the_prior_through_the_teacher(table, teacher, weight):
    exact = po.exact(po.Target(table, po.Teacher(teacher, weight), table.prompts, 3))
    of_teacher = exact.log_prob(teacher)
    parts = [(exact.log_prior, 1 - weight), (of_teacher, weight)]
    for at, star in enumerate(exact.log_posterior):
        torch.testing.assert_close(star, written_out(parts, at), rtol=0, atol=EXACT)
    if weight == 1.0:
        np.testing.assert_allclose(exact.log_z, 0.0, rtol=0, atol=EXACT)
        np.testing.assert_allclose(exact.evaluate(teacher)["kl_to_target"], 0.0, atol=EXACT)
    else:
        assert np.all(abs(exact.log_z) > 0.01)
        assert np.all(exact.evaluate(teacher)["kl_to_target"] > 0.01)


def test_the_distance_to_the_target_is_that_to_the_teacher(table, teacher):
    exact = po.exact(po.Target(table, po.Teacher(teacher), table.prompts, 3))
    other = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=9)
    pairs = zip(exact.log_prob(other), exact.log_prob(teacher), strict=True)
    wanted = [float((p.exp() * (p - q)).sum()) for p, q in pairs]
    np.testing.assert_allclose(exact.evaluate(other)["kl_to_target"], wanted, atol=EXACT)


def test_several_teachers_and_a_reward_multiply(table, teacher, second):
    evidence = [po.Teacher(teacher, 0.8), po.Teacher(second, 0.5), po.Reward(reward, beta=0.7)]
    exact = po.exact(po.Target(table, evidence, table.prompts, 3))
    plain = po.exact(po.Target(table, po.Reward(reward, beta=0.7), table.prompts, 3))
    parts = [
        (exact.log_prior, 1 - 1.3),
        (exact.log_prob(teacher), 0.8),
        (exact.log_prob(second), 0.5),
        (plain.log_evidence, 1.0),
    ]
    for at, star in enumerate(exact.log_posterior):
        torch.testing.assert_close(star, written_out(parts, at), rtol=0, atol=EXACT)


def test_a_wrong_line_is_caught(table, teacher):
    """The product of experts, prior x teacher^weight, is not it."""
    line = po.exact(po.Target(table, po.Teacher(teacher, 0.5), table.prompts, 3))
    product = po.exact(po.Target(table, po.Expert(teacher, 0.5), table.prompts, 3))
    pairs = zip(line.log_posterior, product.log_posterior, strict=True)
    assert all(float((a - b).abs().max()) > 1e4 * EXACT for a, b in pairs)


def test_it_agrees_with_an_expert_and_a_power(table, teacher):
    """prior^(1 - w) teacher^w, for w < 1, in the two pieces that were there before."""
    line = po.exact(po.Target(table, po.Teacher(teacher, 0.6), table.prompts, 3))
    pieces = [po.Power(0.4), po.Expert(teacher, 0.6)]
    both = po.exact(po.Target(table, pieces, table.prompts, 3))
    np.testing.assert_allclose(line.log_z, both.log_z, atol=EXACT)


@pytest.mark.parametrize("objective", ["rloo", "dpg", "tb"])
def test_distillation_ends_at_the_teacher_on_policy_and_off(table, teacher, objective):
    target = po.Target(table, po.Teacher(teacher), table.prompts, 3)
    fit = po.fit(target, objective, steps=150, num_samples=32, learning_rate=0.1)
    exact = po.exact(target)
    assert np.all(exact.evaluate(table)["kl_to_target"] > 0.3)
    assert np.all(exact.evaluate(fit.policy)["kl_to_target"] < 0.05)


def test_every_draw_of_the_teacher_has_weight_one(table, teacher):
    """No estimate of log Z has an error with the teacher as the proposal."""
    target = po.Target(table, po.Teacher(teacher), table.prompts, 3)
    draws = po.sample(target, "importance", num_samples=50, proposal=teacher, seed=0)
    torch.testing.assert_close(
        draws.log_weight, torch.zeros_like(draws.log_weight), atol=1e-9, rtol=0
    )
    assert draws.log_z.value == pytest.approx(0.0, abs=1e-9)
    report = po.evaluate(target, teacher, num_samples=50, seed=0)
    assert report["kl_to_target"].value == pytest.approx(0.0, abs=1e-9)


def test_what_the_prior_or_the_teacher_rules_out_is_out(teacher):
    drawn = teacher.sample(["x"], 2, 3, torch.Generator().manual_seed(0))
    log_prior_N = torch.tensor([-1.0, -math.inf], dtype=torch.float64)
    for weight in (0.5, 1.0, 2.0):
        log_e_N = po.Teacher(teacher, weight).score(drawn, {}, log_prior_N).log_evidence
        assert log_e_N[0].isfinite()
        assert log_e_N[1] == -math.inf
    logits = teacher.logits.detach().clone()
    logits[:, 0, 1] = -math.inf
    never = po.TabularLM(logits, teacher.prompts, teacher.vocabulary)
    batch = teacher.completions(["x"], [[1, 0]], 3)
    flat_N = torch.tensor([-1.0], dtype=torch.float64)
    assert po.Teacher(never).score(batch, {}, flat_N).log_evidence.tolist() == [-math.inf]
    with pytest.raises(EvidenceError, match="infinitely good"):
        po.Teacher(never, -1.0).score(batch, {}, flat_N)


def test_a_teacher_may_be_the_prior_with_a_prefix():
    lm = tiny_lm()
    target = po.Target(lm, po.Teacher(lm, prompt_prefix="c "), ["a", "b"], 3)
    exact = po.exact(target)
    np.testing.assert_allclose(exact.log_z, 0.0, atol=1e-6)
    assert np.all(exact.evaluate(lm)["kl_to_target"] > 1e-4)


def test_what_is_wrong_is_said(table):
    for weight in (0.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="must be a number other than zero"):
            po.Teacher(table, weight)
    other = po.TabularLM.random(WORDS[:5], 3, ("x", "y"), seed=6)
    with pytest.raises(ModelError, match="do not share their tokens"):
        po.Target(table, po.Teacher(other), table.prompts, 3)

"""Policies that do not start as the prior: where they start, what is measured, what is recorded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from helpers import WORDS, tiny_lm
from torch import Tensor

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.seeds import generator
from posteriori.errors import CheckpointError, ConfigError, ModelError
from posteriori.objectives.base import log_sum_by
from posteriori.train.effective_draws import EffectiveDraws
from posteriori.train.step_size.step_signal import signal_of


def likes_b(completions, **_):
    return [float(text.count("b")) for text in completions]


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(likes_b, beta=1.0), table.prompts, 3)


@pytest.fixture
def other(table) -> po.TabularLM:
    return po.TabularLM.random(table.vocabulary, 3, table.prompts, seed=8)


STILL = {"steps": 1, "num_samples": 4, "learning_rate": 1e-12}


@pytest.mark.parametrize("by", ["policy", "start", "path", "run", "fit"])
def test_the_policy_starts_as_what_is_given_and_leaves_it_alone(target, other, tmp_path, by):
    given: dict = {by: other} if by in ("policy", "start") else {}
    if by == "path":
        other.save_pretrained(tmp_path / "lm")
        given = {"start": tmp_path / "lm"}
    if by in ("run", "fit"):
        before = po.fit(target, "rloo", policy=other, output_dir=tmp_path / "run", **STILL)
        given = {"start": str(tmp_path / "run")} if by == "run" else {"policy": before}
    logits = other.logits.detach().clone()
    fit = po.fit(target, "rloo", **given, **STILL)
    exact = po.exact(target)
    for mine, theirs in zip(exact.log_prob(fit.policy), exact.log_prob(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    assert torch.equal(other.logits, logits)


@pytest.mark.parametrize("objective", ["rloo", "dpg", "rebel"])
def test_it_ends_at_the_target_all_the_same(target, other, objective):
    """What was lost by starting elsewhere is won back: the target does not know of it."""
    exact = po.exact(target)
    assert np.all(exact.evaluate(other)["kl_to_target"] > 0.3)
    fit = po.fit(target, objective, policy=other, steps=150, num_samples=32, learning_rate=0.1)
    assert np.all(exact.evaluate(fit.policy)["kl_to_target"] < 0.1)


def test_the_first_record_is_of_the_model_that_it_started_as(target, other):
    """20,000 draws; six standard errors of log pi/prior, so a false alarm in 5e8."""
    settings = {"steps": 1, "num_samples": 20_000, "learning_rate": 1e-12}
    fit = po.fit(target, "rloo", policy=other, **settings)
    exact = po.exact(target).evaluate(other)
    drawn = draw(target, other, 20_000, generator(3))
    error = float((drawn.log_proposal_N - drawn.log_prior_N).std()) / len(drawn) ** 0.5
    assert abs(fit.history[0]["kl_to_prior"] - exact["kl_to_prior"].mean()) < 6 * error
    assert exact["kl_to_prior"].mean() > 0.3


def test_auto_measures_the_displacement_from_where_it_started(target, other):
    """The derivative of KL(pi_s, p*) along start (pi/start)^s, by enumeration, against 50,000
    draws: five standard errors, a false alarm in 1.7 million."""
    exact = po.exact(target)
    log_start = exact.log_prob(other)

    def scaled(s: float) -> list[Tensor]:
        pairs = zip(log_start, exact.log_evidence, strict=True)
        return [(start + s * log_e / 2).log_softmax(0) for start, log_e in pairs]

    def distance(s: float) -> float:
        pairs = zip(scaled(s), exact.log_posterior, strict=True)
        return sum(float((pi.exp() * (pi - star)).sum()) for pi, star in pairs) / len(log_start)

    slope = -(distance(1 + 1e-4) - distance(1 - 1e-4)) / 2e-4
    fresh = draw(target, other, 50_000, generator(0, "signal"))
    log_start_N = fresh.log_proposal_N
    log_pi_N = log_start_N + fresh.log_evidence_N / 2
    prompt_N = fresh.completions.prompt_index_N
    log_z_P = log_sum_by(log_pi_N - log_start_N, prompt_N) - math.log(50_000)
    log_pi_N = log_pi_N - log_z_P[prompt_N]
    found = signal_of(fresh, log_pi_N, forward=False, log_start_N=log_start_N)
    assert abs(found.slope - slope) < 5 * math.sqrt(found.slope_variance)
    from_prior = signal_of(fresh, log_pi_N, forward=False)
    assert abs(from_prior.slope - slope) > 5 * math.sqrt(from_prior.slope_variance)


def test_with_the_auto_rate_it_comes_nearer_than_where_it_started(target, other):
    exact = po.exact(target)
    fit = po.fit(target, "rloo", policy=other, steps=100, num_samples=16)
    before, after = (exact.evaluate(lm)["kl_to_target"].mean() for lm in (other, fit.policy))
    assert after < 0.3 * before


def test_effective_draws_are_measured_against_draws_of_the_prior(target, other):
    """n / (1 + chi^2(p*, pi)) by enumeration; 20,000 draws of each, within a tenth."""
    exact = po.exact(target)
    chi = [
        float((2 * star - pi).logsumexp(0).exp())
        for star, pi in zip(exact.log_posterior, exact.log_prob(other), strict=True)
    ]
    wanted = np.mean(20_000 / np.array(chi))
    effective = EffectiveDraws(target, steps=2, seed=0)
    fresh = draw(target, other, 20_000, generator(1))
    assert effective.measure(fresh, other, 0) > 0
    assert effective.figure == pytest.approx(wanted, rel=0.1)
    sharp = po.TabularLM(12 * other.logits.detach(), other.prompts, other.vocabulary)
    few, alone = draw(target, sharp, 24, generator(2)), EffectiveDraws(target, steps=2)
    alone.measure(few, sharp, 0)
    effective.measure(few, sharp, 0)
    assert alone.figure > 10, "its own draws do not show what it misses"
    assert effective.figure < 1


def test_a_run_is_resumed_for_no_other_start_and_its_record_names_it(target, other, tmp_path):
    place = tmp_path / "run"
    settings = {"steps": 2, "num_samples": 4}
    po.fit(target, "rloo", policy=other, output_dir=place, **settings)
    assert json.loads((place / "config.json").read_text())["start"] == "TabularLM"
    again = po.fit(target, "rloo", policy=other, output_dir=place, resume=True, **settings)
    assert len(again.history) == 2
    third = po.TabularLM.random(other.vocabulary, 3, other.prompts, seed=9)
    with pytest.raises(CheckpointError, match="start has changed"):
        po.fit(target, "rloo", policy=third, output_dir=place, resume=True, **settings)
    with pytest.raises(CheckpointError, match="start"):
        po.fit(target, "rloo", output_dir=place, resume=True, **settings)


def test_what_is_handed_back_is_called_by_its_name(target, table):
    """A policy that starts at the target can only be led away."""
    star = po.fit(target, "vargrad", steps=200, num_samples=64, learning_rate=0.1).policy
    settings = {"steps": 20, "num_samples": 16, "learning_rate": 3.0, "decay": "none"}
    fit = po.fit(target, "rloo", policy=star, **settings)
    (finding,) = [each for each in fit.findings if each.name == "no_gain"]
    assert "the model that it started as is nearer" in finding.message
    assert torch.equal(fit.policy.logits, star.logits)


def words_target(lm: po.CausalLM) -> po.Target:
    return po.Target(lm, po.Reward(likes_b, beta=1.0), ["a", "c d"], 3)


LORA = {"rank": 4, "alpha": 8.0}


def adapter_on(lm: po.CausalLM) -> po.CausalLM:
    settings = {"policy": "lora", "lora": LORA, "steps": 5, "num_samples": 8}
    return po.fit(words_target(lm), "rl", learning_rate=0.05, **settings).policy


def test_an_adapter_goes_on_as_an_adapter_on_the_priors_own_weights(tmp_path):
    lm = tiny_lm()
    target = words_target(lm)
    first = adapter_on(lm)
    fit = po.fit(target, "rloo", policy="lora", lora=LORA, start=first, **STILL)
    exact = po.exact(target)
    for mine, theirs in zip(exact.log_prob(fit.policy), exact.log_prob(first), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    moved = zip(exact.log_prior, exact.log_prob(first), strict=True)
    assert all(float((a - b).abs().max()) > 0.05 for a, b in moved)
    mine = {each.data_ptr() for each in lm.model.parameters()}
    shared = [each for each in fit.policy.model.parameters() if each.data_ptr() in mine]
    assert len(shared) == len(mine), "the prior is in memory once"


def test_a_full_policy_starts_as_an_adapter_folded_in():
    lm = tiny_lm()
    first = adapter_on(lm)
    fit = po.fit(words_target(lm), "rloo", policy=first, **STILL)
    exact = po.exact(words_target(lm))
    assert fit.policy.adapter is None
    for mine, theirs in zip(exact.log_prob(fit.policy), exact.log_prob(first), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_a_new_adapter_is_put_on_another_model():
    lm, other = tiny_lm(), tiny_lm(seed=5)
    target = words_target(lm)
    fit = po.fit(target, "rloo", policy="lora", lora=LORA, start=other, **STILL)
    exact = po.exact(target)
    for mine, theirs in zip(exact.log_prob(fit.policy), exact.log_prob(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_an_adapter_that_does_not_fit_is_said():
    lm = tiny_lm()
    first = adapter_on(lm)
    with pytest.raises(ConfigError, match=r"rank.: 4.*lora is another") as caught:
        po.fit(words_target(lm), "rloo", policy="lora", start=first, **STILL)
    assert "'rank': 4" in caught.value.hint
    with pytest.raises(ModelError, match="stands on other weights"):
        po.fit(
            words_target(tiny_lm(seed=5)), "rloo", policy="lora", lora=LORA, start=first, **STILL
        )
    narrow = LORA | {"target_modules": ["c_attn"]}
    with pytest.raises(ConfigError, match="other layers"):
        po.fit(words_target(lm), "rloo", policy="lora", lora=narrow, start=first, **STILL)


def test_what_cannot_be_started_from_is_said(target, other):
    wrong = po.TabularLM.random(WORDS[:5], 3, other.prompts, seed=8)
    with pytest.raises(ModelError, match="do not share their outcomes"):
        po.fit(target, "rloo", policy=wrong, **STILL)
    with pytest.raises(ConfigError, match="both policy and start are models"):
        po.fit(target, "rloo", policy=other, start=other, **STILL)
    with pytest.raises(ModelError, match="a prefix, which its weights do not have"):
        po.fit(target, "rloo", policy=po.Prompted(other, "x"), **STILL)
    with pytest.raises(ModelError, match="nowhere"):
        po.fit(target, "rloo", start="/nowhere", **STILL)

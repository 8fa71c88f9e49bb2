"""A budget in place of beta: the frontier's beta, what is refused, and what a run records."""

from __future__ import annotations

import json
import math

import pytest
import torch
from helpers import OracleCase, has_c, reward
from scipy.optimize import brentq

import posteriori as po
from posteriori.core.settings.training import FitConfig
from posteriori.errors import CheckpointError, ConfigError, FrontierError
from posteriori.train import budget as budgets

SAMPLES = 4000
Z = 4.9
"""Standard errors that a normal estimate passes with a chance of 1e-6."""


def unpriced(case: OracleCase, *more) -> po.Target:
    return po.Target(case.prior(), [po.Reward(reward), *more], case.prompts, 4)


def exact_point(target: po.Target, beta: float) -> tuple[float, float]:
    """Mean KL of the posterior to the prior and its mean reward, by enumeration."""
    exact = po.exact(target.with_beta(beta))
    kl = reward_ = 0.0
    for log_prior, log_e in zip(exact.log_prior, exact.log_evidence, strict=True):
        log_star = (log_prior + log_e).log_softmax(0)
        on = ~log_star.isneginf()
        star = log_star[on].exp()
        kl += float((star * (log_star - log_prior)[on]).sum())
        reward_ += float((star * beta * log_e[on]).sum())
    num = len(exact.log_prior)
    return kl / num, reward_ / num


def fit(target, steps=1, **settings):
    notes = []
    settings = {"num_samples": 2, "budget_samples": SAMPLES} | settings
    return po.fit(target, "rloo", steps=steps, on_note=notes.append, **settings), notes


@pytest.mark.parametrize("kl", [0.25, 0.5])
def test_the_beta_of_a_budget_is_the_exact_one(kl, case):
    """Its posterior's exact KL is the budget within the error that the frontier states."""
    target = unpriced(case)
    fitted, notes = fit(target, kl_budget=kl)
    found = fitted.budget
    assert found.kl == pytest.approx(kl, abs=1e-9)
    assert fitted.target.evidence[0].beta == found.beta
    exact_kl, exact_reward = exact_point(target, found.beta)
    assert abs(exact_kl - kl) < Z * found.kl_error < 0.5 * kl
    assert abs(exact_reward - found.reward) < Z * found.reward_error
    assert notes == [f"kl_budget: {found}"]
    # A mutant: twice the beta is out of that error.
    assert abs(exact_point(target, 2 * found.beta)[0] - kl) > Z * found.kl_error


@pytest.mark.long
def test_the_beta_of_a_reward_is_the_exact_one(case_1):
    target = unpriced(case_1)
    found = fit(target, reward_target=1.0)[0].budget
    assert abs(exact_point(target, found.beta)[1] - 1.0) < Z * found.reward_error
    exact_beta = brentq(lambda beta: exact_point(target, beta)[1] - 1.0, 0.1, 10.0)
    assert found.beta == pytest.approx(exact_beta, rel=0.3)


def test_a_constraint_may_stand_beside_the_reward(case_1):
    """It costs -log P(satisfied) before any reward: a budget below that is told so."""
    target = unpriced(case_1, po.Constraint(has_c))
    scaled = budgets.in_own_units(target, 0)
    cost = exact_point(target, 1e9)[0]
    settings = FitConfig(steps=1, kl_budget=cost + 0.3, budget_samples=SAMPLES)
    found = budgets.find_budget(target, settings)
    assert abs(exact_point(target, found.beta)[0] - cost - 0.3) < Z * found.kl_error
    assert scaled.evidence[0].beta != 1.0
    with pytest.raises(FrontierError, match=r"kl_budget: KL=0.1 is less than what hard evidence"):
        fit(target, kl_budget=0.1)


def test_a_budget_out_of_reach_says_how_far_the_curve_goes(case_1):
    with pytest.raises(FrontierError, match=r"KL=50 lies beyond .* raise budget_samples"):
        fit(unpriced(case_1), kl_budget=50.0, budget_samples=100, budget_stages=1)
    with pytest.raises(FrontierError, match=r"reward_target: the prior itself has a mean reward"):
        fit(unpriced(case_1), reward_target=-3.0)


class TestRefused:
    """What is wrong is told before anything is drawn."""

    @pytest.fixture(autouse=True)
    def nothing_is_drawn(self, monkeypatch):
        def refuse(*_, **__):
            raise AssertionError("something was drawn")

        monkeypatch.setattr(budgets, "draw", refuse)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"kl_budget": 1.0, "reward_target": 1.0},
                "both kl_budget and reward_target are given",
            ),
            ({"kl_budget": 0.0}, "'kl_budget' = 0.0 is not valid"),
            ({"kl_budget": math.inf}, "'kl_budget' = inf is not valid"),
            ({"reward_target": math.nan}, "'reward_target' = nan is not valid"),
            ({}, "it has no beta yet; give beta"),
            ({"kl_budget": 1.0, "budget_samples": 99}, "'budget_samples' = 99 is not valid"),
            ({"budget_samples": 500}, "budget_samples does nothing without kl_budget"),
        ],
    )
    def test_settings(self, settings, message, table):
        target = po.Target(table, po.Reward(lengths), table.prompts, 3)
        with pytest.raises(ConfigError, match=message):
            po.fit(target, "rloo", steps=1, **settings)

    def test_a_beta_beside_it(self, table):
        target = po.Target(table, po.Reward(lengths, beta=0.5), table.prompts, 3)
        with pytest.raises(ConfigError, match=r"both kl_budget and beta=0.5 are given"):
            po.fit(target, "rloo", steps=1, kl_budget=1.0)

    @pytest.mark.parametrize(
        "evidence",
        [
            [po.Likelihood(lambda completions: [0.5] * len(completions))],
            [po.Reward(lambda completions: [0.0] * len(completions)), po.Power(2.0)],
            [po.Reward(lambda completions: [0.0] * len(completions))] * 2,
        ],
        ids=["likelihood", "reward and power", "two rewards"],
    )
    def test_evidence_that_has_no_single_beta(self, evidence, table):
        target = po.Target(table, evidence, table.prompts, 3)
        with pytest.raises(ConfigError, match=r"kl_budget needs one Reward or Preferences"):
            po.fit(target, "rloo", steps=1, kl_budget=1.0)

    def test_a_folder_that_holds_a_run(self, table, tmp_path):
        target = po.Target(table, po.Reward(lengths, beta=0.5), table.prompts, 3)
        po.fit(target, "rloo", steps=1, num_samples=2, output_dir=tmp_path)
        bare = po.Target(table, po.Reward(lengths), table.prompts, 3)
        with pytest.raises(CheckpointError, match="already holds a run"):
            po.fit(bare, "rloo", steps=1, kl_budget=1.0, output_dir=tmp_path)


def lengths(completions, **kwargs):
    return [float(len(text)) for text in completions]


def test_a_resumed_run_takes_the_recorded_beta(table, tmp_path, monkeypatch):
    """And never finds another: looking again is made impossible."""
    target = po.Target(table, po.Reward(lengths), table.prompts, 3)
    settings = {
        "steps": 6,
        "num_samples": 4,
        "kl_budget": 0.3,
        "checkpoint_every": 2,
        "learning_rate": 0.1,
    }
    whole, _ = fit(target, **settings, output_dir=tmp_path / "whole")

    def stop(record):
        if record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(target, **settings, output_dir=tmp_path / "part", on_step=stop)
    recorded = json.loads((tmp_path / "part" / "config.json").read_text())["budget"]
    monkeypatch.setattr("posteriori.train.fit.find_budget", None)
    again, notes = fit(target, **settings, output_dir=tmp_path / "part", resume=True)
    assert again.budget == whole.budget == budgets.Budget(**recorded)
    assert notes == [f"kl_budget: {whole.budget}"]
    assert torch.equal(again.policy.logits, whole.policy.logits)
    with pytest.raises(CheckpointError, match=r"kl_budget = 0.3, and this run has 0.4"):
        fit(target, **settings | {"kl_budget": 0.4}, output_dir=tmp_path / "part", resume=True)


def test_with_beta_is_the_same_target_at_another_price(case_1):
    priced = case_1.target(0.5)
    other, bare = priced.with_beta(2.0), unpriced(case_1, po.Constraint(has_c)).with_beta(2.0)
    y = case_1.all_outcomes(priced.prior)
    for scores in (
        other.score(y),
        po.Target(priced.prior, bare.evidence[0], y.prompt_set, 4).score(y),
    ):
        assert torch.equal(scores.log_evidence, case_1.target(2.0).score(y).log_evidence)
    assert priced.evidence[0].beta == 0.5, "the target itself is as it was"
    bounded = po.Reward(reward, max_reward=4.0)
    assert bounded.max_log_evidence is None
    assert bounded.with_beta(0.5).max_log_evidence == 8.0
    with pytest.raises(ConfigError, match="beta=0 must be a positive number"):
        priced.with_beta(0)
    with pytest.raises(ConfigError, match="it has no beta yet"):
        unpriced(case_1).score(y)

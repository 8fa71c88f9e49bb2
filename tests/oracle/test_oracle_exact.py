"""`po.exact` against the brute-force table, and the ELBO identity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import BETAS, PROMPTS, WORDS, has_c, reward

import posteriori as po

TOLERANCE = 1e-6


def close(value, expected) -> None:
    np.testing.assert_allclose(value, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("beta", BETAS)
def test_the_posterior_of_a_reward(case, beta):
    exact = po.exact(case.target(beta))
    expected = case.figures("posterior", str(beta))
    close(exact.log_z, expected["log_z"])
    star = exact.evaluate_target()
    close(star["log_z"], expected["log_z"])
    close(star["elbo"], expected["log_z"])
    for name in ("kl_to_prior", "entropy", "mean_reward"):
        close(star[name], expected[name])
    prior = exact.evaluate(exact.target.prior)
    close(prior["kl_to_target"], expected["kl_prior_to_posterior"])
    close(prior["tv"], expected["tv_to_prior"])
    close(prior["kl_from_target"], expected["kl_to_prior"])


def test_the_prior_itself(case):
    target = case.target()
    figures, expected = po.exact(target).evaluate(target.prior), case.figures("prior")
    for name in expected:
        close(figures[name], expected[name])


def test_the_posterior_of_a_hard_constraint(case):
    target = po.Target(case.prior(), po.Constraint(has_c), case.prompts, 4)
    exact, expected = po.exact(target), case.figures("constraint_has_c")
    star = exact.evaluate_target()
    for name in ("log_z", "kl_to_prior", "entropy"):
        close(star[name], expected[name])
    log_star = exact.log_posterior
    rewards = torch.tensor(reward(exact.outcomes[0].completion_ids))
    close([float((p.exp() * rewards).sum()) for p in log_star], expected["mean_reward"])
    assert np.all(np.isposinf(exact.evaluate(target.prior)["kl_to_target"]))


def test_a_likelihood_is_the_reward_of_its_logarithm(case):
    """P(observed|y) = exp(r(y) / beta) / exp(r_max / beta), so log Z shifts by the bound."""

    def likelihood(completion_ids, **kwargs):
        return [float(np.exp((r - 4.0) / 0.5)) for r in reward(completion_ids)]

    target = po.Target(case.prior(), po.Likelihood(likelihood), case.prompts, 4)
    close(po.exact(target).log_z, case.figures("posterior", "0.5")["log_z"] - 4.0 / 0.5)


def test_evidence_multiplies_and_tempering_scales_it(case):
    twice = po.Target(case.prior(), [po.Reward(reward, beta=2.0)] * 2, case.prompts, 4)
    close(po.exact(twice).log_z, case.figures("posterior", "1.0")["log_z"])
    tempered = case.target(0.5).tempered(0.25)
    close(po.exact(tempered).log_z, case.figures("posterior", "2.0")["log_z"])
    close(po.exact(case.target(0.5).tempered(0.0)).log_z, np.zeros(3))


def test_the_enumeration_is_the_tables(case):
    exact = po.exact(case.target())
    for outcomes in exact.outcomes:
        mine = [tuple(ids) for ids in outcomes.completion_ids]
        assert sorted(mine) == sorted(map(tuple, case.outcomes))


POLICIES = ("prior", "expert", "fitted", "table 1", "table 2", "peaked table")


def policy(name: str, case, target):
    if name == "prior":
        return target.prior
    if name == "expert":
        return case.expert()
    if name == "fitted":
        return po.fit(target, "rloo", steps=30, learning_rate=3e-3).policy
    scale = 5.0 if name == "peaked table" else 1.0
    return po.TabularLM.random(WORDS, 4, PROMPTS, seed=len(name) + ord(name[-1]), scale=scale)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("beta", [2.0, 0.5, 0.1])
def test_the_elbo_identity(case, name, beta):
    """E_pi[r] - beta KL(pi, prior) = beta (log Z - KL(pi, p*)), log Z from the table."""
    target = case.target(beta)
    figures = po.exact(target).evaluate(policy(name, case, target))
    log_z = case.figures("posterior", str(beta))["log_z"]
    objective = figures["mean_reward"] - beta * figures["kl_to_prior"]
    close(objective, beta * (log_z - figures["kl_to_target"]))
    close(figures["elbo"], log_z - figures["kl_to_target"])
    assert np.all(figures["kl_to_target"] > 0)

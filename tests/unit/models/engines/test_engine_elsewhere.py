"""An engine as a proposal, as a policy to be judged, and as what draws the frontier's pool.

Each assert is 6 standard errors wide: a false alarm in 5 x 10^8.
"""

from __future__ import annotations

import pytest
import torch
from engine_fakes import Fake

import posteriori as po


@pytest.fixture
def target(case_1):
    return case_1.target(0.5)


@pytest.fixture
def coarse(target):
    """An engine whose distribution is far from the model's: by 0.2 nats and more."""
    return po.Engine(target.prior, Fake(sabotage="tempered", tolerance=10.0))


@pytest.mark.parametrize(
    ("sampler", "number"), [("importance", 400), ("imh", 40), ("mh", 2), ("qrs", 100)]
)
def test_samplers_weigh_what_an_engine_draws(target, coarse, sampler, number):
    settings = {"burn_in": 2, "chains": 2} if sampler == "mh" else {}
    draws = po.sample(target, sampler, num_samples=number, proposal=coarse, seed=0, **settings)
    exact = po.exact(target)
    torch.testing.assert_close(
        draws.log_prior_N, target.prior.log_prob(draws.completions).detach(), rtol=0, atol=1e-4
    )
    if sampler == "importance":
        off = draws.log_z.value - exact.log_z.mean()
        assert abs(off) < 6 * draws.log_z.standard_error
        fake = coarse._given
        q_N = fake.lm.log_prob(draws.completions).detach()
        torch.testing.assert_close(draws.log_proposal_N, q_N, rtol=0, atol=1e-4)


def test_evaluate_judges_what_is_served(target, coarse):
    report = po.evaluate(target, coarse, num_samples=1500, seed=0)
    exact = po.exact(target)
    coarse.sample(target.prompts, 1, 4, torch.Generator().manual_seed(1))
    served = exact.evaluate(coarse._given.lm)
    for name in ("kl_to_target", "kl_to_prior", "entropy", "mean_reward"):
        figure = report[name]
        assert abs(figure.value - served[name].mean()) < 6 * figure.standard_error, name
    assert abs(served["kl_to_prior"].mean()) > 0.02, "another distribution than the model's"
    names = [finding.name for finding in report.findings]
    assert "served" in names
    assert "served_weights" not in names


@pytest.mark.long
def test_the_frontier_of_an_engines_draws_is_the_priors(target):
    near = po.Engine(target.prior, Fake(sabotage="tempered", tolerance=10.0, temperature=0.85))
    curve = po.frontier(target, num_samples=3000, stages=0, sampler=near, seed=0)
    for beta in (8.0, 4.0):
        point = curve.at_beta(beta)
        log_z = po.exact(target.with_beta(beta)).log_z.mean()
        assert abs(point.log_z.value - log_z) < 6 * point.log_z.standard_error
    assert curve.best_of_n == ()
    unweighed = po.frontier(target, num_samples=1500, stages=0, seed=0)
    assert unweighed.best_of_n


def test_frontier_refuses_what_is_no_engine(target):
    with pytest.raises(po.PosterioriError, match="an engine"):
        po.frontier(target, num_samples=100, sampler=target.prior)


def test_an_engine_can_be_an_expert(target, coarse):
    """By the model's own log-probs."""
    expert = po.Expert(coarse, 0.5)
    both = po.Target(target.prior, expert, target.prompts, 4)
    plain = po.Target(target.prior, po.Expert(target.prior, 0.5), target.prompts, 4)
    drawn = target.prior.sample(target.prompts, 5, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(both.log_density(drawn).total, plain.log_density(drawn).total)

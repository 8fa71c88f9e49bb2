"""Wasted nats where evidence rules outcomes out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tables import as_table, posterior_table, tilted
from test_diagnostics_wasted import (
    BETA,
    no_twos,
    random_table,
    reward,
    target_of,
)

import posteriori as po


@pytest.fixture(scope="module")
def hard() -> po.Target:
    return target_of(po.Reward(reward, beta=BETA), po.Constraint(no_twos))


def test_who_writes_what_is_ruled_out_is_nearest_to_the_prior(hard):
    """KL(pi, p*_t) is infinite for every t > 0."""
    lm = random_table(12)
    figures, report = po.exact(hard).evaluate(lm), po.evaluate(hard, lm, 300)
    np.testing.assert_allclose(figures["wasted_nats"], figures["kl_to_prior"])
    assert np.all(np.isinf(figures["effective_beta"]))
    assert report["wasted_nats"].value == pytest.approx(report["kl_to_prior"].value)
    assert report["effective_beta"].value == math.inf
    assert "over_optimised" not in {f.name for f in report.findings}


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
def test_who_keeps_to_it_is_judged_by_the_rest(hard, t):
    lm = posterior_table(hard, t)
    figures, report = po.exact(hard).evaluate(lm), po.evaluate(hard, lm, 1000)
    np.testing.assert_allclose(figures["wasted_nats"], 0.0, atol=1e-12)
    np.testing.assert_allclose(figures["effective_beta"], BETA / t, rtol=1e-6)
    assert abs(report["wasted_nats"].value) < 6 * report["wasted_nats"].standard_error
    beta = report["effective_beta"]
    assert abs(beta.value - BETA / t) < 6 * beta.standard_error


def test_little_evidence_within_the_rules_is_nearest_to_the_rules_alone(hard):
    """t -> 0: the prior given the constraint, not the prior."""
    exact = po.exact(hard)
    lm = as_table(exact, tilted(exact, -0.5))
    figures, report = exact.evaluate(lm), po.evaluate(hard, lm, 2000)
    for at, log_star in enumerate(tilted(exact, 0.0)):
        log_pi = tilted(exact, -0.5)[at]
        on = ~log_pi.isneginf()
        kl = float((log_pi[on].exp() * (log_pi[on] - log_star[on])).sum())
        assert figures["wasted_nats"][at] == pytest.approx(kl)
    assert np.all(np.isinf(figures["effective_beta"]))
    assert figures["wasted_nats"].mean() < figures["kl_to_prior"].mean() - 0.1
    found = report["wasted_nats"]
    assert abs(found.value - figures["wasted_nats"].mean()) < 6 * found.standard_error

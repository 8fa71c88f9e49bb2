"""The bound on log Z from above, over every way that its draws can fall; and what it refuses."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers import WORDS

import posteriori as po
from posteriori.diagnostics.evaluate.bounds import log_z_upper
from posteriori.diagnostics.mixture import Mixture, Stratum
from posteriori.errors import ConfigError, SamplingError

EACH = 2
"""Draws of policy and prior each."""


def reward(completion_ids, **kwargs):
    return [1.7 * y.count(1) - 0.4 * len(y) for y in completion_ids]


@pytest.fixture
def target() -> po.Target:
    prior = po.TabularLM.random(WORDS[:3], 1, ("x",), seed=1)
    return po.Target(prior, po.Reward(reward, beta=0.5, max_reward=1.7), prior.prompts, 1)


def mean_inverse(target: po.Target, lm: po.TabularLM | None) -> float:
    """Z E[1 / Z-hat], summed over all draws of policy, prior and target."""
    exact = po.exact(target)
    log_prior, log_e = exact.log_prior[0], exact.log_evidence[0]
    log_pi = log_prior if lm is None else exact.log_prob(lm)[0].detach()

    def stratum(rows) -> Stratum:
        at = torch.tensor(rows)
        return Stratum(log_pi[at], log_prior[at], log_e[at])

    outcomes = range(len(log_prior))
    laws = [log_prior.exp()] if lm is None else [log_pi.exp(), log_prior.exp()]
    total = 0.0
    for rows in itertools.product(outcomes, repeat=EACH * len(laws)):
        parts = [rows[:EACH], rows[EACH:]][: len(laws)]
        chance = math.prod(
            float(law[part].prod())
            for law, part in zip(laws, map(torch.tensor, parts), strict=True)
        )
        mixture = Mixture(*[stratum(part) for part in parts], *[None] * (2 - len(parts)))
        for at in outcomes:
            weight = float(exact.log_posterior[0][at].exp())
            total += chance * weight * math.exp(-log_z_upper(mixture, stratum([at, at])).value)
    return total * math.exp(exact.log_z[0])


@pytest.mark.parametrize("seed", [None, 9], ids=["the prior", "a policy"])
def test_the_mean_of_one_over_z_hat_is_one_over_z(target, seed):
    policy = None if seed is None else po.TabularLM.random(WORDS[:3], 1, ("x",), seed=seed)
    assert mean_inverse(target, policy) == pytest.approx(1.0, abs=1e-10)


def test_a_stratum_chosen_at_random_is_found(target, monkeypatch):
    """The exact draw has to take the place of one that could have been it."""
    monkeypatch.setattr(
        Mixture, "log_components", lambda self, stratum: [self.log_density(stratum)] * 2
    )
    policy = po.TabularLM.random(WORDS[:3], 1, ("x",), seed=9)
    assert abs(mean_inverse(target, policy) - 1.0) > 1e-3


def test_what_both_miss_is_seen_by_exact_draws():
    """Weights that look perfect, and one outcome of the target that nobody draws."""
    log_pi = torch.full((50,), -0.1, dtype=torch.float64)
    seen = Stratum(log_pi, log_pi, torch.zeros_like(log_pi))
    mixture = Mixture(seen, None)
    assert mixture.log_z().value == pytest.approx(0.0)
    # The rule of three: draws that weigh the same may have missed others.
    assert mixture.log_z().standard_error == pytest.approx(math.log1p(3 / 50) / 1.959964)
    missed = torch.tensor([-9.0, -9.0], dtype=torch.float64)
    exact = Stratum(missed, missed, missed + 18)
    assert log_z_upper(mixture, exact).value > math.log(math.exp(9) / 50)


def test_intervals_need_exact_draws_of_every_prompt():
    prior = po.TabularLM.random(WORDS[:3], 2, ("x", "y"), seed=1)
    target = po.Target(prior, po.Reward(reward, beta=0.5, max_reward=3.0), prior.prompts, 2)
    with pytest.raises(ConfigError, match=r"exact draws.*rejection"):
        po.evaluate(target, prior, 10).interval("log_z")
    weighted = po.sample(target, "importance", 10)
    with pytest.raises(SamplingError, match=r"exact draws.*properly_weighted"):
        po.evaluate(target, prior, 10, posterior=weighted)
    exact = po.sample(target, "rejection", 10)
    one = exact.select(exact.completions.prompt_index_N == 0)
    with pytest.raises(SamplingError, match="the prompt 'y' has 0 exact draws"):
        po.evaluate(target, prior, 10, posterior=replace(one, guarantee="exact"))
    report = po.evaluate(target, prior, 10, posterior=exact)
    with pytest.raises(KeyError, match="no interval for 'entropy'"):
        report.interval("entropy")

"""Error bars of `po.evaluate` cover the truth as often as they say.

400 seeds of 400 draws on a table, against exact figures. A right 95% interval (1.96 standard
errors) covers between 91% and 98.25% of 800 (seed, prompt) pairs, but for a chance of 2e-6 (two
binomial tails of 1e-6). The band finds error bars that are wrong by a factor: at 0.7 times the
right size they cover 83%, at 1.5 times 99.7%.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers import WORDS
from scipy import stats
from tables import off_the_curve

import posteriori as po

pytestmark = pytest.mark.long

SEEDS = 400
FIGURES = (
    "log_z",
    "elbo",
    "kl_to_target",
    "kl_to_prior",
    "entropy",
    "mean_reward",
    "ess",
    "target_entropy",
    "perplexity",
    "truncated",
)
UNBIASED = ("elbo", "kl_to_prior", "entropy", "mean_reward", "truncated")
SHARED = ("wasted_nats", "effective_beta")
"""Of the prompts together: their error bars are those at one strength for all."""


def reward(completion_ids, **kwargs):
    return [0.5 * y.count(1) - 0.2 * len(y) for y in completion_ids]


@pytest.fixture
def z_scores() -> dict[str, np.ndarray]:
    return scored()


@functools.cache
def scored() -> dict[str, np.ndarray]:
    """(estimate - exact) / standard error of each prompt, where it has one; last, of the mean."""
    prior = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=1)
    target = po.Target(prior, po.Reward(reward, beta=0.5), prior.prompts, 3)
    policy = off_the_curve(po.exact(target))
    exact = po.exact(target).evaluate(policy, num_samples=400)
    z: dict[str, list[list[float]]] = {name: [] for name in (*FIGURES, *SHARED)}
    for seed in range(SEEDS):
        report = po.evaluate(target, policy, num_samples=400, seed=seed)
        for name in z:
            whole = report[name]
            each = zip(whole.per_prompt, exact[name], strict=True) if name in FIGURES else ()
            pairs = [*each, (whole, exact[name].mean())]
            z[name].append([(e.value - value) / e.standard_error for e, value in pairs])
    return {name: np.array(rows) for name, rows in z.items()}


def band(pairs: int) -> tuple[float, float]:
    return tuple(stats.binom.ppf([1e-6, 1 - 1e-6], pairs, 0.95) / pairs)


@pytest.mark.parametrize("figure", FIGURES)
def test_intervals_of_each_prompt_cover(z_scores, figure):
    z = z_scores[figure][:, :2].ravel()
    low, high = band(len(z))
    assert low <= np.mean(np.abs(z) < 1.96) <= high


@pytest.mark.parametrize("figure", [*FIGURES, *SHARED])
def test_intervals_of_the_mean_over_prompts_cover(z_scores, figure):
    z = z_scores[figure][:, -1]
    low, high = band(len(z))
    assert low <= np.mean(np.abs(z) < 1.96) <= high


@pytest.mark.parametrize("figure", UNBIASED)
def test_unbiased_figures_are_centred(z_scores, figure):
    """The mean of 400 z has standard deviation 1/20: five of those (6e-7)."""
    assert abs(z_scores[figure][:, 2].mean()) < 5 / np.sqrt(SEEDS)


@pytest.mark.parametrize("factor", [0.7, 1.5])
def test_error_bars_of_the_wrong_size_are_found(z_scores, factor):
    z = z_scores["log_z"][:, :2].ravel() / factor
    low, high = band(len(z))
    assert not low <= np.mean(np.abs(z) < 1.96) <= high

"""`evaluate` with exact draws: bounds on both sides of log Z, and intervals that hold."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import WORDS
from scipy import stats

import posteriori as po

SEEDS, SIZES = 100, (16, 128)
RATE = 1e-6
SURE = float(stats.t.isf(RATE / 8, SEEDS - 1))
"""Standard errors that a mean over the seeds passes with probability 1e-6, over eight looks."""
CONFIDENCE = 0.99
MISSES = int(stats.binom.isf(RATE / 3, SEEDS, 1 - CONFIDENCE))
"""Intervals of each of three figures that may miss, of as many as seeds; 10."""
FIGURES = ("log_z", "kl_to_target", "kl_from_target")


def reward(completion_ids, **kwargs):
    return [1.2 * y.count(1) - 0.4 * y.count(2) for y in completion_ids]


@pytest.fixture(scope="module")
def target() -> po.Target:
    prior = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=1)
    return po.Target(prior, po.Reward(reward, beta=0.8, max_reward=3.6), prior.prompts, 3)


@pytest.fixture(scope="module")
def policy() -> po.TabularLM:
    return po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=9)


@pytest.fixture(scope="module")
def reports(target, policy) -> dict[int, list]:
    def report(size: int, seed: int):
        posterior = po.sample(target, "rejection", size, seed=seed)
        return po.evaluate(target, policy, size, seed, posterior)

    return {size: [report(size, seed) for seed in range(SEEDS)] for size in SIZES}


@pytest.fixture(scope="module")
def truth(target, policy) -> dict[str, float]:
    return {name: float(v.mean()) for name, v in po.exact(target).evaluate(policy).items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.long
def test_log_z_lies_between_its_bounds_in_the_mean(reports, truth, size):
    for name, side in (("log_z", 1), ("log_z_upper", -1)):
        values = np.array([report[name].value for report in reports[size]])
        slack = SURE * values.std(ddof=1) / np.sqrt(SEEDS)
        assert side * (values.mean() - truth["log_z"]) < slack
        assert slack < 0.2, "a bound that is off by that much is found"
    assert reports[size][0]["log_z"].kind == "lower_bound"
    assert reports[size][0]["log_z_upper"].kind == "upper_bound"


def test_the_gap_shrinks_with_more_draws(reports):
    gaps = np.array(
        [
            [report["log_z_upper"].value - report["log_z"].value for report in reports[size]]
            for size in SIZES
        ]
    )
    shrunk = gaps[0] - gaps[1]
    assert shrunk.mean() > SURE * shrunk.std(ddof=1) / np.sqrt(SEEDS)


@pytest.mark.parametrize("name", FIGURES)
def test_the_intervals_hold(reports, truth, name):
    ends = np.array([report.interval(name, CONFIDENCE) for report in reports[128]])
    misses = (ends[:, 0] > truth[name]) | (ends[:, 1] < truth[name])
    assert misses.sum() <= MISSES
    assert np.median(ends[:, 1] - ends[:, 0]) < 1.25


def test_an_interval_of_a_quarter_of_the_width_is_found(reports, truth):
    ends = np.array([report.interval("log_z", CONFIDENCE) for report in reports[16]])
    half = (ends[:, 1] - ends[:, 0]) / 8
    assert (np.abs(ends.mean(1) - truth["log_z"]) > half).sum() > MISSES


def test_eubo_is_unbiased(reports, truth):
    """E_p*[log p~ - log pi] = log Z + KL(p*, pi)."""
    values = np.array([report["eubo"].value for report in reports[128]])
    error = values.std(ddof=1) / np.sqrt(SEEDS)
    wanted = truth["log_z"] + truth["kl_from_target"]
    assert abs(values.mean() - wanted) < SURE * error
    assert error < 0.05

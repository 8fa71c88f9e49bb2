"""Errors that rest on few draws, or few prompts, are as wide as Student's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from posteriori.core.estimates import combine, log_mean_weight, mean
from posteriori.core.numerics import Spread, spread_of, t_factor
from posteriori.core.types import Estimate

SEEDS = 4000
FALSE_ALARM = 1e-6


def binomial_bounds(share: float) -> tuple[float, float]:
    low, high = stats.binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], SEEDS, share) / SEEDS
    return float(low), float(high)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def z_scores(estimates: list[Estimate], *, new_prompts: bool = False) -> np.ndarray:
    """Of figures whose truth is 0."""
    errors = [e.standard_error_new_prompts if new_prompts else e.standard_error for e in estimates]
    return np.array([e.value for e in estimates]) / np.array(errors)


@pytest.mark.parametrize("num", [2, 3, 5, 16])
def test_few_draws_cover_what_they_say(num):
    """Of 4,000 means of normal draws 95% within 1.96 errors, and hardly any beyond five."""
    z = np.abs(z_scores([mean(each) for each in normal(SEEDS, num)]))
    low, high = binomial_bounds(0.95)
    assert low < np.mean(z < stats.norm.ppf(0.975)) < high
    assert np.mean(z > 5) < 0.03
    plain = z * t_factor(num - 1)
    assert num > 5 or np.mean(plain < 1.96) < low, "s / sqrt(n) alone does not"


@pytest.mark.parametrize("num", [2, 3, 5])
def test_few_prompts_cover_what_they_say_of_others(num):
    prompts = [[Estimate(float(v), 0.0, "exact", 1) for v in each] for each in normal(SEEDS, num)]
    estimates = [combine(each, "exact") for each in prompts]
    z = np.abs(z_scores(estimates, new_prompts=True))
    low, high = binomial_bounds(0.95)
    assert low < np.mean(z < stats.norm.ppf(0.975)) < high


def test_few_draws_of_many_prompts_are_many_draws():
    """Two draws of each of 40 prompts have 40 degrees of freedom, so the normal law serves."""
    estimates = [combine([mean(two) for two in each], "unbiased") for each in normal(1000, 40, 2)]
    z = z_scores(estimates)
    assert 0.85 < z.std() < 1.1
    spread = normal(1000, 40, 2).var(-1).mean(-1).div(80).sqrt()
    ratio = np.array([e.standard_error for e in estimates]) / spread.numpy()
    assert ratio.min() > 1 - 1e-9
    assert np.median(ratio) == pytest.approx(1)
    assert ratio.max() < 1.15


def test_degrees_of_freedom_are_those_of_what_the_error_rests_on():
    """One prompt with all the spread counts alone (Welch and Satterthwaite)."""
    assert Spread.joined([1.0, 0.0], [1, 1]).degrees_of_freedom == pytest.approx(1)
    assert Spread.joined([1.0, 1.0], [1, 1]).degrees_of_freedom == pytest.approx(2)
    assert Spread.joined([3.0, 4.0], [1e9, 1e9]).error == pytest.approx(5)
    assert Spread.joined([0.0], [3]).error == 0
    assert Spread.joined([math.inf], [3]).error == math.inf
    assert math.isnan(Spread.joined([math.nan], [0]).error)


def test_the_factor_is_students():
    for degrees in (1, 2, 5.5, 28):
        expected = stats.t.ppf(0.975, degrees) / stats.norm.ppf(0.975)
        assert t_factor(degrees) == pytest.approx(expected, rel=1e-12)
    assert t_factor(29) == 1
    assert t_factor(0) == math.inf


def test_log_z_of_two_weights_is_as_wide():
    two = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64)
    # The rule of three: as much as 3/2 of the larger weight, 1.5 Z-hat, may have been missed.
    missed = math.log1p(3 / 2 * 1.5) / stats.norm.ppf(0.975)
    expected = math.hypot(0.5 * t_factor(1), missed)
    assert log_mean_weight(two).standard_error == pytest.approx(expected)


def lognormal(sd: float, num: int, runs: int = SEEDS) -> torch.Tensor:
    """Means of 1."""
    return (sd * normal(runs, num) - 0.5 * sd**2).exp()


def test_skewed_draws_cover_nearly_what_they_say():
    """Few draws make most of the spread, so it has fewer degrees of freedom than there are draws.

    100 lognormal draws of log-sd 1 cover 0.931 of the time; at n - 1 degrees of freedom 0.899. Of
    4,000 runs the share has a standard deviation of 0.0040 and 0.0048: five of these leave a gap.
    """
    draws = lognormal(1.0, 100)
    z = np.abs([(float(x.mean()) - 1.0) / Spread.of_means([x]).error for x in draws])
    plain = np.abs((draws.mean(-1) - 1.0) / (draws.std(-1) / 10.0)).numpy()
    assert np.mean(z < 1.96) > 0.911
    assert np.mean(plain < 1.96) < 0.923


def test_the_degrees_of_freedom_of_a_spread():
    """2 / (2 / (n - 1) + kurtosis / n): n - 1 of two equal values, about 2 of a single one."""
    even = torch.tensor([-1.0, 1.0]).repeat(50).double()
    assert spread_of(even) == pytest.approx((math.sqrt(1 / 99), 99.0))
    one = torch.zeros(100, dtype=torch.float64)
    one[3] = 1.0
    error, degrees = spread_of(one)
    assert error == pytest.approx(0.01)
    kurtosis = (0.99**4 * 0.01 + 0.01**4 * 0.99) / 0.0099**2 - 3
    assert degrees == pytest.approx(2 / (2 / 99 + kurtosis / 100))
    assert degrees < 3
    assert math.isnan(spread_of(one[:1])[0])

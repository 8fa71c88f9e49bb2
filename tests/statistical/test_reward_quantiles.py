"""Intervals of reward quantiles hold for discrete rewards as for continuous ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from posteriori.diagnostics.quantiles import QUANTILES, combined, exact_quantile, quantile

SEEDS = 400
FALSE_ALARM = 1e-6

LAWS = {
    "a coin": ([0.0, 1.0], [0.5, 0.5]),
    "a rare one": ([0.0, 1.0], [0.95, 0.05]),
    "quarters": ([0.0, 1.0, 2.0, 3.0], [0.25, 0.25, 0.25, 0.25]),
    "a far value": ([0.0, 1.0, 10.0], [0.05, 0.9, 0.05]),
    "many values": (list(range(500)), [1 / 500] * 500),
}
"""Some with a level of the quantiles right at a jump: the estimate is one value or the next."""


def draws_of(name: str, num: int, seeds: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values, shares = (torch.tensor(each, dtype=torch.float64) for each in LAWS[name])
    generator = torch.Generator().manual_seed(11)
    at = torch.multinomial(shares, num * seeds, replacement=True, generator=generator)
    return values, shares, values[at].view(seeds, num)


@pytest.mark.parametrize("num", [100, 1000])
@pytest.mark.parametrize("name", LAWS)
def test_they_cover(name, num):
    """At least 95% within 1.96 errors, at most 1% beyond five of them."""
    values, shares, drawn = draws_of(name, num, SEEDS)
    for level in QUANTILES.values():
        truth = exact_quantile(values, shares, level)
        found = [quantile(row, level) for row in drawn]
        off = np.array([abs(each.value - truth) for each in found])
        error = np.array([each.standard_error for each in found])
        covered = (off <= 1.96 * error + 1e-12).sum()
        assert covered >= stats.binom.ppf(FALSE_ALARM, SEEDS, 0.95), level
        assert (off > 5 * error + 1e-12).sum() <= stats.binom.isf(FALSE_ALARM, SEEDS, 0.01), level


def test_the_mean_over_prompts_covers_too():
    """Each of 20 prompts is a coin, whose median is 0 and whose estimate is 0 or 1."""
    _, _, drawn = draws_of("a coin", 100, 20 * 50)
    for prompts in drawn.view(50, 20, 100):
        found = combined([quantile(row, 0.5) for row in prompts])
        assert found.value <= 1.96 * found.standard_error


def test_they_are_no_wider_than_they_must_be():
    """Of a continuous law the error is that of the density: sqrt(q (1 - q) / n) / f."""
    normal = torch.randn(300, 2000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for level in QUANTILES.values():
        density = stats.norm.pdf(stats.norm.ppf(level))
        known = math.sqrt(level * (1 - level) / 2000) / density
        found = np.array([quantile(row, level).standard_error for row in normal])
        assert 0.9 * known < found.mean() < 1.2 * known


def test_too_few_draws_tell_no_end():
    assert quantile(torch.zeros(20), 0.05).standard_error == math.inf
    assert quantile(torch.zeros(20), 0.5).standard_error == 0
    assert quantile(torch.zeros(2), 0.5).standard_error == math.inf

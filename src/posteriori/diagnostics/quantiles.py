"""Quantiles of the reward: what a mean hides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from scipy.stats import binom
from torch import Tensor

from posteriori.core.estimates import combine
from posteriori.core.reliability import NORMAL
from posteriori.core.types import Estimate

QUANTILES = {
    "reward_q05": 0.05,
    "reward_q25": 0.25,
    "reward_q50": 0.5,
    "reward_q75": 0.75,
    "reward_q95": 0.95,
}

_ROUNDING = 1e-9
"""So that cumulated shares reach the levels that they reach on paper."""


def quantile(values_n: Tensor, level: float) -> Estimate:
    """The smallest value that at least a share `level` of the draws does not pass. Consistent.

    The number of draws up to the true quantile is binomial, so the r-th and s-th smallest draw
    enclose it with at least 95%, whatever the law. The standard error is half their distance over
    1.96; where values are tied, for the quantile of a discrete reward jumps from one value to the
    next, the distance to the farther one over 1.96, and no less than a fifth of the distance to
    what encloses with 99.9%. Infinite where there are too few draws for an end (of a 5% quantile,
    below 72).
    """
    sorted_n = values_n.double().cpu().sort().values
    num = len(sorted_n)
    at = math.ceil(num * level - _ROUNDING) - 1
    value = float(sorted_n[max(0, at)])
    first, last = _enclosing(num, level, 0.95)
    if first < 1 or last > num:
        return Estimate(value, math.inf, "consistent", num)
    outer_first, outer_last = _enclosing(num, level, 0.999)
    outer_first, outer_last = max(1, outer_first), min(num, outer_last)
    inside_n = sorted_n[outer_first - 1 : outer_last]
    if not bool((inside_n[1:] == inside_n[:-1]).any()):
        error = float(sorted_n[last - 1] - sorted_n[first - 1]) / 2 / NORMAL
    else:
        error = max(
            _farther(value, sorted_n, first, last) / NORMAL,
            _farther(value, sorted_n, outer_first, outer_last) / 5,
        )
    return Estimate(value, error, "consistent", num)


def combined(per_prompt: Sequence[Estimate]) -> Estimate:
    """The mean over prompts. Errors of quantiles that jump have one direction for all prompts of
    the same law, and do not average out: they add up, as the errors of the mean at most can."""
    found = combine(per_prompt, "consistent")
    errors = [each.standard_error for each in per_prompt]
    return replace(found, standard_error=sum(errors) / len(errors))


@lru_cache(maxsize=1024)
def _enclosing(num: int, level: float, confidence: float) -> tuple[int, int]:
    """Places from 1 on between which the quantile lies: 0 or num + 1 where there is no draw."""
    tail = (1 - confidence) / 2
    return int(binom.ppf(tail, num, level)), int(binom.ppf(1 - tail, num, level)) + 1


def _farther(value: float, sorted_n: Tensor, first: int, last: int) -> float:
    ends = float(sorted_n[first - 1]), float(sorted_n[last - 1])
    return max(0.0 if end == value else abs(end - value) for end in ends)


def exact_quantile(values_n: Tensor, probability_n: Tensor, level: float) -> float:
    """The same of a distribution: the smallest value v with P(value <= v) >= `level`."""
    order = values_n.argsort()
    reached_n = probability_n[order].cumsum(0) >= level - _ROUNDING
    return float(values_n[order][torch.nonzero(reached_n)[0, 0]])

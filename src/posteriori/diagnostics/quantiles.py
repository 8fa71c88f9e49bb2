"""Quantiles of the reward: what a mean hides."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..types import Estimate

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

    The number of draws up to the true quantile is binomial with standard deviation
    s = sqrt(n q (1 - q)), so the standard error is half the distance between the values s places
    below and above. Among tied values it is zero.
    """
    sorted_n = values_n.double().cpu().sort().values
    num = len(sorted_n)
    at = math.ceil(num * level - _ROUNDING) - 1
    step = math.ceil(math.sqrt(num * level * (1 - level)))
    low, high = float(sorted_n[max(0, at - step)]), float(sorted_n[min(num - 1, at + step)])
    value = float(sorted_n[max(0, at)])
    error = 0.0 if low == high else 0.5 * (high - low)
    return Estimate(value, error, "consistent", num)


def exact_quantile(values_n: Tensor, probability_n: Tensor, level: float) -> float:
    """The same of a distribution: the smallest value v with P(value <= v) >= `level`."""
    order = values_n.argsort()
    reached_n = probability_n[order].cumsum(0) >= level - _ROUNDING
    return float(values_n[order][torch.nonzero(reached_n)[0, 0]])

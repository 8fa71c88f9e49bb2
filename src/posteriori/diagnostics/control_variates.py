"""How much each draw of a mixture counts, where the mean of a function of it is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import root_scalar
from torch import Tensor

_ROUNDING = 1e-9
"""Density ratios nearer to 1 are 1."""


def control_variate(log_ratio_n: Tensor) -> Tensor:
    """c = prior/m - 1, of mean 0 under m; float64 [n]."""
    c_n = log_ratio_n.exp() - 1.0
    return c_n.where(c_n.abs() > _ROUNDING, 0.0)


def log_shares(control: Sequence[Tensor]) -> list[Tensor]:
    """log N p_i of each draw, p_i = 1 / (N (1 + lambda c_i)) with sum_i p_i c_i = 0.

    These are the p_i of the largest likelihood prod_i p_i among those under which c has its known
    mean of 0, and they sum to 1 (Owen 1991, empirical likelihood). All draws count the same where c
    does not have both signs: no such p_i exist then.
    """
    c_N = torch.cat(list(control))
    low, high = float(c_N.min()), float(c_N.max())
    if not low < 0.0 < high:
        return [torch.zeros_like(c_n) for c_n in control]
    # Every p_i is at most 1, which keeps lambda off the poles -1 / high and -1 / low.
    edge = 1.0 - 1.0 / len(c_N)
    solved = root_scalar(
        lambda slope: float((c_N / (1.0 + slope * c_N)).sum()),
        bracket=(-edge / high, -edge / low),
        xtol=1e-14,
        rtol=1e-14,
    )
    return [-(solved.root * c_n).log1p() for c_n in control]

"""Arithmetic on log-weights: means in log space, effective draws, tail shapes.

Everything takes and gives float64. Weights are w = exp(log w); none of these exponentiates a
log-weight before its maximum has been taken out.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor


def log_mean_exp(log_w_N: Tensor) -> Tensor:
    """log (1/N) sum_i exp(log w_i); -inf where every weight is zero."""
    return log_w_N.double().logsumexp(-1) - math.log(log_w_N.shape[-1])


def ess(log_w_N: Tensor) -> Tensor:
    """Kish's effective number of draws, (sum w)^2 / sum w^2, between 1 and N; 0 if all are zero."""
    log_w_N = log_w_N.double()
    log_ess = 2 * log_w_N.logsumexp(-1) - (2 * log_w_N).logsumexp(-1)
    return torch.where(log_w_N.isneginf().all(-1), torch.zeros_like(log_ess), log_ess.exp())


def variance_of_mean(values_N: Tensor) -> Tensor:
    """The estimated variance of the mean of independent draws, s^2 / N; NaN for a single draw."""
    return values_N.double().var(-1, unbiased=True) / values_N.shape[-1]


def pareto_k(log_w_N: Tensor) -> float:
    """k-hat: the shape of the generalised Pareto tail of the weights (Vehtari et al. 2024, PSIS).

    Below 0.7 the mean of the weights can be trusted at usual sample sizes; the mean has a finite
    variance below 0.5, and is itself finite below 1. -inf where the largest weights are all equal
    (no tail at all); NaN where fewer than 25 draws have any weight, too few to tell.
    """
    log_w_N = log_w_N.double()
    positive = log_w_N[~log_w_N.isneginf()]
    if len(positive) < 25:
        return math.nan
    tail = max(5, math.ceil(min(0.2 * len(positive), 3 * math.sqrt(len(positive)))))
    largest = positive.topk(tail + 1).values
    if float(largest[0] - largest[-1]) < 1e-12:
        return -math.inf
    from arviz_stats.base.array import array_stats

    # `psislw` takes minus the log-weights, and warns about what the caller reports as a finding.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, k_hat = array_stats.psislw((-positive).numpy())
    return float(k_hat)


def reliable_k(num_draws: int) -> float:
    """The k-hat up to which S draws can be trusted: min(1 - 1/log10 S, 0.7) (Vehtari et al.)."""
    return min(1.0 - 1.0 / math.log10(num_draws), 0.7) if num_draws > 10 else 0.0

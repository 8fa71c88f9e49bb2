"""Arithmetic on log-weights: means in log space, effective draws, tail shapes.

Everything takes and gives float64. Weights are w = exp(log w); none of these exponentiates a
log-weight before its maximum has been taken out.
"""

from __future__ import annotations

import math

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

    Weights of discrete rewards are tied. A tie at the threshold belongs to the tail as a whole, and
    the threshold is then the next smaller weight: measured from the tie itself, much of the tail
    would be zeros, which the fit divides by. Log-weights closer than rounding count as tied.
    """
    log_w_N = log_w_N.double()
    positive = log_w_N[~log_w_N.isneginf()]
    if len(positive) < 25:
        return math.nan
    positive = ((positive - positive.max()) / _ROUNDING).round() * _ROUNDING
    tail = max(5, math.ceil(min(0.2 * len(positive), 3 * math.sqrt(len(positive)))))
    largest = positive.topk(tail + 1).values
    threshold = largest[-1]
    if largest[0] == threshold:
        return -math.inf
    if largest[-2] == threshold:
        smaller = positive[positive < threshold]
        threshold = smaller.max() if len(smaller) else torch.tensor(-math.inf).double()
    return _tail_shape(positive[positive > threshold].exp() - threshold.exp())


_ROUNDING = 1e-4
"""Sums of float32 log-probs differ by about so much between batches."""


def _tail_shape(excess_M: Tensor) -> float:
    """The k of a generalised Pareto law, fitted to what exceeds a threshold.

    Zhang and Stephens (2009), with the prior of Vehtari et al. (2024), appendix C, that pulls short
    tails towards 0.5. Tied values are counted, not repeated.
    """
    num = len(excess_M)
    quartile = excess_M.sort().values[int(num / 4 + 0.5) - 1]
    if quartile == 0:
        return math.inf
    value_K, count_K = excess_M.unique(return_counts=True)
    share_K = count_K / num
    grid = 30 + int(math.sqrt(num))
    j_G = torch.arange(1, grid + 1, dtype=torch.float64)
    b_G = 1 / value_K[-1] + (1 - (grid / (j_G - 0.5)).sqrt()) / (3 * quartile)
    k_G = (share_K * torch.log1p(-b_G[:, None] * value_K)).sum(-1)
    profile_G = num * ((-b_G / k_G).log() - k_G - 1)
    b = (profile_G.softmax(0) * b_G).sum()
    k = float((share_K * torch.log1p(-b * value_K)).sum())
    return (num * k + 10 * 0.5) / (num + 10)


def reliable_k(num_draws: int) -> float:
    """The k-hat up to which S draws can be trusted: min(1 - 1/log10 S, 0.7) (Vehtari et al.)."""
    return min(1.0 - 1.0 / math.log10(num_draws), 0.7) if num_draws > 10 else 0.0

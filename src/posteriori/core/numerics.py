"""Arithmetic on log-weights: means in log space, effective draws, tail shapes.

Everything takes and gives float64. Weights are w = exp(log w); none of these exponentiates a
log-weight before its maximum has been taken out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from .tensors import as_array, distinct, distinct_counts


def log_mean_exp(log_w_N: Tensor) -> Tensor:
    """log (1/N) sum_i exp(log w_i); -inf where every weight is zero."""
    return log_w_N.double().logsumexp(-1) - math.log(log_w_N.shape[-1])


def ess(log_w_N: Tensor) -> Tensor:
    """Kish's effective number of draws, (sum w)^2 / sum w^2, between 1 and N; 0 if all are zero."""
    log_w_N = log_w_N.double()
    log_ess = 2 * log_w_N.logsumexp(-1) - (2 * log_w_N).logsumexp(-1)
    return torch.where(log_w_N.isneginf().all(-1), torch.zeros_like(log_ess), log_ess.exp())


def num_distinct(row_NK: Tensor) -> int:
    """How many different rows of integers there are.

    By a 64-bit hash of each, whose odd factors are fixed at random: sorting a million numbers takes
    a tenth of a second, and sorting rows many seconds. Two of n different rows count as one with
    a probability of about n^2 / 2^64: 2e-8 for 640,000.
    """
    stream = torch.Generator().manual_seed(_HASH_SEED)
    factor_K = torch.randint(-(2**62), 2**62, (row_NK.shape[1] + 1,), generator=stream)
    factor_K = (2 * factor_K + 1).to(row_NK.device)
    hash_N = factor_K[-1] + (row_NK * factor_K[:-1]).sum(-1)
    # Products of small numbers leave their low bits alike: mixed once more, upper half into lower.
    hash_N = (hash_N ^ (hash_N >> 32)) * factor_K[-1]
    return len(distinct(hash_N))


_HASH_SEED = 20_240_229


def variance_of_mean(values_N: Tensor) -> Tensor:
    """The estimated variance of the mean of independent draws, s^2 / N; NaN for a single draw."""
    if values_N.shape[-1] < 2:
        return torch.full(values_N.shape[:-1], torch.nan, dtype=torch.float64)
    return values_N.double().var(-1, unbiased=True) / values_N.shape[-1]


@lru_cache(maxsize=4096)
def t_factor(degrees_of_freedom: float) -> float:
    """How much wider than the normal law's a 95% interval is whose error rests on few values:
    t(0.975; degrees of freedom) / z(0.975). 6.5 at one, 1.1 at ten; 1 from thirty on, where the
    normal law serves to 5%, and infinite at none."""
    if degrees_of_freedom >= _NORMAL_FROM:
        return 1.0
    if not degrees_of_freedom > 0:
        return math.inf
    return float(stdtrit(degrees_of_freedom, 0.975) / stdtrit(math.inf, 0.975))


_NORMAL_FROM = 29
"""Degrees of freedom of thirty values."""


class Spread(NamedTuple):
    """A standard error that +- 1.96 of makes a 95% interval of, and its degrees of freedom."""

    error: float
    degrees_of_freedom: float

    @classmethod
    def of_means(cls, parts: Sequence[Tensor], beside: float = 0.0) -> Spread:
        """Of a sum of independent means, each of independent values [n].

            error^2 = t^2 sum_i s_i^2 / n_i,    t = `t_factor`(degrees of freedom),

        with the degrees of freedom of Welch (1947) and Satterthwaite (1946), those of each s_i
        being what its values show (`spread_of`). What is given back are those of normal values, n_i
        - 1. `beside`: an error of another kind, which needs no t and adds its own square.
        """
        plain, degrees = zip(*map(spread_of, parts), strict=True)
        return cls.of_spreads(plain, degrees, [part.shape[0] - 1.0 for part in parts], beside)

    @classmethod
    def of_spreads(
        cls,
        plain: Sequence[float],
        degrees: Sequence[float],
        nominal: Sequence[float],
        beside: float = 0.0,
    ) -> Spread:
        """The same, where `spread_of` each is known; `nominal`: n_i - 1."""
        normal = cls.joined(plain, nominal)
        error = max(normal.error, cls.joined(plain, degrees).error)
        return cls(math.hypot(error, beside), normal.degrees_of_freedom)

    @classmethod
    def of_groups(cls, means_G: Tensor, beside: float = 0.0) -> Spread:
        """The same of the means of groups of particles, with a third of the degrees of freedom,
        from three on: they are skewed, and where the smaller errors are the ones that pass as small
        enough the interval has to reach further."""
        plain, degrees = spread_of(means_G)
        degrees = max(min(degrees, 3.0), degrees / 3)
        return cls(math.hypot(t_factor(degrees) * plain, beside), degrees)

    @classmethod
    def joined(cls, errors: Sequence[float], degrees: Sequence[float]) -> Spread:
        """Of a sum of independent figures with these plain errors, s / sqrt(n)."""
        squares = [error * error for error in errors]
        total = sum(squares)
        if not (math.isfinite(total) and total > 0):
            return cls(math.sqrt(total) if total >= 0 else math.nan, math.inf)
        if len(squares) == 1:
            return cls(t_factor(degrees[0]) * math.sqrt(total), degrees[0])
        # s^2 comes with 2/k of its square as variance, which k + 2 and - 2 take out of the sum.
        parts = zip(squares, degrees, strict=True)
        uncertain = sum((each / total) ** 2 / (k + 2) for each, k in parts)
        degrees_of_freedom = 1 / uncertain - 2 if uncertain else math.inf
        degrees_of_freedom = min(max(degrees_of_freedom, min(degrees)), sum(degrees))
        return cls(t_factor(degrees_of_freedom) * math.sqrt(total), degrees_of_freedom)


def spread_of(values_n: Tensor) -> tuple[float, float]:
    """s / sqrt(n) of independent values [n], and the degrees of freedom of s; NaN of one value.

        degrees = 2 s^4 / var(s^2) = 2 / (2 / (n - 1) + kurtosis / n),

    n - 1 for normal values, and fewer where few of them make most of s (excess kurtosis: Box 1953).
    """
    value_n = as_array(values_n)
    return _spread(value_n - float(value_n.sum()) / len(value_n) if len(value_n) else value_n)


def spread_and_reach(value_n: NDArray[np.float64]) -> tuple[float, float, float]:
    """`spread_of` the values, and how far from their mean the farthest is."""
    off_n = value_n - float(value_n.sum()) / len(value_n)
    reach = max(float(off_n.max()), -float(off_n.min()))
    return (*_spread(off_n), reach)


def _spread(off_n: NDArray[np.float64]) -> tuple[float, float]:
    """Of values less their mean, which are squared in place."""
    num = len(off_n)
    if num < 2:
        return math.nan, num - 1.0
    second = float(off_n @ off_n) / num
    plain = math.sqrt(second / (num - 1)) if second >= 0 else math.nan
    if not (math.isfinite(second) and second > 0):
        return plain, num - 1.0
    off_n *= off_n
    off_n /= second
    kurtosis = float(off_n @ off_n) / num - 3.0
    return plain, 2.0 / (2.0 / (num - 1) + max(0.0, kurtosis) / num)


def pareto_k(log_w_N: Tensor) -> float:
    """k-hat: the shape of the generalised Pareto tail of the weights (Vehtari et al. 2024, PSIS).

    Below 0.7 the mean of the weights can be trusted at usual sample sizes; the mean has a finite
    variance below 0.5, and is itself finite below 1. -inf where the largest weights are all equal
    (no tail at all); NaN where fewer than 25 draws have any weight, too few to judge.

    Weights of discrete rewards are tied. A tie at the threshold belongs to the tail as a whole, and
    the threshold is then the next smaller weight: measured from the tie itself, much of the tail
    would be zeros, which the fit divides by. Log-weights closer than rounding count as tied.
    """
    positive = log_w_N[~log_w_N.isneginf()]
    if len(positive) < FEWEST_FOR_A_TAIL:
        return math.nan
    relative_N, threshold = _tail(positive)
    if threshold is None:
        return -math.inf
    return _fit_tail(relative_N[relative_N > threshold].exp() - threshold.exp())[0]


def pareto_smooth(log_w_N: Tensor) -> Tensor:
    """Log-weights whose tail is what the fitted generalised Pareto law expects of so many draws.

    The z-th smallest of the M tail weights becomes F^-1((z - 1/2) / M), F fitted as for `pareto_k`,
    and never more than the largest raw weight (Vehtari et al. 2024, section 3.1); weights that tie
    share the mean of theirs. It takes variance out of means for some bias. The weights come back as
    they are where there is no tail to fit: k-hat NaN (too few draws) or infinite.
    """
    log_w_N = log_w_N.double()
    on_N = ~log_w_N.isneginf()
    if int(on_N.sum()) < FEWEST_FOR_A_TAIL:
        return log_w_N
    relative_n, threshold = _tail(log_w_N[on_N])
    if threshold is None:
        return log_w_N
    # From here on in weights relative to the largest.
    value_K, tie_M, count_K = distinct_counts(relative_n[relative_n > threshold])
    k, scale = _fit_tail(value_K.exp()[tie_M] - threshold.exp())
    if math.isinf(k):
        return log_w_N
    num = len(tie_M)
    spread_M = -torch.log1p(-(torch.arange(num, dtype=torch.float64) + 0.5) / num)
    excess_M = scale * (torch.expm1(k * spread_M) / k if k else spread_M)
    expected_M = (threshold.exp() + excess_M).clamp(max=1.0)
    rank_K = torch.arange(len(value_K)).repeat_interleave(count_K)
    mean_K = torch.zeros_like(value_K).index_add(0, rank_K, expected_M) / count_K
    smooth_n = log_w_N[on_N]
    smooth_n[relative_n > threshold] = mean_K.log()[tie_M] + smooth_n.max()
    return log_w_N.masked_scatter(on_N, smooth_n)


FEWEST_FOR_A_TAIL = 25
"""Draws with weight that a tail is fitted to."""

_ROUNDING = 1e-4
"""Sums of float32 log-probs differ by about so much between batches."""


def _tail(log_w_n: Tensor) -> tuple[Tensor, Tensor | None]:
    """Log-weights relative to the largest, rounded so that ties are ties, and the threshold above
    which they are the tail; None where the largest are all equal."""
    relative_n = log_w_n.double() - log_w_n.max()
    relative_n = (relative_n / _ROUNDING).round() * _ROUNDING
    num = len(relative_n)
    tail = max(5, math.ceil(min(0.2 * num, 3 * math.sqrt(num))))
    largest = relative_n.topk(tail + 1).values
    threshold = largest[-1]
    if largest[0] == threshold:
        return relative_n, None
    if largest[-2] == threshold:
        smaller = relative_n[relative_n < threshold]
        threshold = smaller.max() if len(smaller) else torch.tensor(-math.inf).double()
    return relative_n, threshold


def _fit_tail(excess_M: Tensor) -> tuple[float, float]:
    """Shape k and scale sigma of a generalised Pareto law, fitted to what exceeds a threshold.

    Zhang and Stephens (2009), with the prior of Vehtari et al. (2024), appendix C, that pulls the
    shape of short tails towards 0.5. Tied values are counted, not repeated.
    """
    num = len(excess_M)
    quartile = excess_M.sort().values[int(num / 4 + 0.5) - 1]
    if quartile == 0:
        return math.inf, math.nan
    value_K, _, count_K = distinct_counts(excess_M)
    share_K = count_K / num
    grid = 30 + int(math.sqrt(num))
    j_G = torch.arange(1, grid + 1, dtype=torch.float64)
    b_G = 1 / value_K[-1] + (1 - (grid / (j_G - 0.5)).sqrt()) / (3 * quartile)
    k_G = (share_K * torch.log1p(-b_G[:, None] * value_K)).sum(-1)
    profile_G = num * ((-b_G / k_G).log() - k_G - 1)
    b = (profile_G.softmax(0) * b_G).sum()
    k = float((share_K * torch.log1p(-b * value_K)).sum())
    return (num * k + 10 * 0.5) / (num + 10), -k / float(b)


def reliable_k(num_draws: int) -> float:
    """The k-hat up to which S draws can be trusted: min(1 - 1/log10 S, 0.7) (Vehtari et al.)."""
    return min(1.0 - 1.0 / math.log10(num_draws), 0.7) if num_draws > 10 else 0.0

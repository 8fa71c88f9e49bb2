"""The distribution function of the prior's scores, and the law of the best of n by it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .prior_pool import Pool

_TIE = 1e-9
"""Scores that are nearer than this, relative to their size, are the same score: a model may round
one completion's otherwise in another batch."""

_GRID, _DIRECTIONS = 200, 8
"""Quantiles at which the error of F is laid out, and the independent directions that are kept."""


class RankLaw:
    """F(s) = P(score <= s) and F_-(s) = P(score < s) of one prompt under the prior.

    Exact where all outcomes are known. From N draws, the completion that is asked about counts as
    one more: F = (#{<= s} + 1) / (N + 1), F_- = #{< s} / (N + 1). It is exchangeable with them
    where it comes from the prior, so that the mean of the best-of-n evidence over prior and draws
    is 1 at any N.
    """

    def __init__(self, pool: Pool) -> None:
        order = pool.score_n.argsort()
        self.score_V, place_n = pool.score_n[order].unique_consecutive(return_inverse=True)
        mass_V = torch.zeros(len(self.score_V), dtype=torch.float64)
        mass_V = mass_V.index_add(0, place_n, pool.mass_n[order])
        zero = torch.zeros(1, dtype=torch.float64)
        self.up_to_V = torch.cat([zero, (mass_V.cumsum(0) / mass_V.sum()).clamp(max=1.0)])
        self.num_draws = None if pool.is_exact else len(pool.score_n)

    def cdf(self, score_N: Tensor) -> tuple[Tensor, Tensor]:
        """F and F_-, float64 [N] each."""
        near_N = _near(score_N)
        upper_N = self.up_to_V[torch.searchsorted(self.score_V, score_N + near_N, right=True)]
        lower_N = self.up_to_V[torch.searchsorted(self.score_V, score_N - near_N)]
        if self.num_draws is None:
            return upper_N, lower_N
        n = self.num_draws
        return (n * upper_N + 1) / (n + 1), n * lower_N / (n + 1)

    def log_best_of(self, score_N: Tensor, n: int) -> Tensor:
        """log [(F^n - F_-^n) / (F - F_-)], at most log n; log n F^(n-1) where the two are one."""
        upper_N, lower_N = self.cdf(score_N)
        tie_N = upper_N - lower_N
        between_N = torch.expm1(n * torch.log1p(-tie_N / upper_N)).neg().log() - tie_N.log()
        smooth_N = math.log(n) - upper_N.log()
        return n * upper_N.log() + between_N.where(tie_N > 0, smooth_N)

    def errors(self, score_N: Tensor, n: int) -> Tensor:
        """By how many nats `log_best_of` changes with one standard error of F, [N, M].

        M independent directions: the leading ones of the delta method's covariance, J C J^T with
        C(s, t) = (min(F(s), F(t)) - F(s) F(t)) / N, weighed by the mass of prior and best-of-n, and
        each score's scaled up to all of its variance. Zeros where F is exact.
        """
        if self.num_draws is None:
            return torch.zeros(len(score_N), _DIRECTIONS, dtype=torch.float64)
        finite_V = self.score_V[self.score_V.isfinite()]
        step = max(1, len(finite_V) // _GRID)
        grid_G = finite_V[::step].contiguous()
        upper_G, lower_G = self.cdf(grid_G)
        slope_G, slope_below_G = self._slopes(upper_G, lower_G, n)
        at_K = torch.cat([upper_G, lower_G])
        slope_K = torch.cat([slope_G, slope_below_G])
        cov_KK = (torch.minimum(at_K[:, None], at_K) - at_K[:, None] * at_K) / self.num_draws
        both_KK = slope_K[:, None] * cov_KK * slope_K
        num = len(grid_G)
        both_SGSG = both_KK.view(2, num, 2, num)
        cov_GG = both_SGSG.sum((0, 2))
        mass_G = torch.diff(upper_G, prepend=upper_G.new_zeros(1)).clamp(min=1e-12)
        best_G = torch.diff(upper_G**n, prepend=upper_G.new_zeros(1)).clamp(min=0.0)
        root_G = (0.5 * (mass_G / mass_G.sum() + best_G / best_G.sum())).sqrt()
        value_G, vector_GG = torch.linalg.eigh(root_G[:, None] * cov_GG * root_G)
        value_M = value_G[-_DIRECTIONS:].clamp(min=0.0)
        change_GM = vector_GG[:, -_DIRECTIONS:] * value_M.sqrt() / root_G[:, None]
        kept_G = change_GM.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)
        change_GM = change_GM * (cov_GG.diagonal().clamp(min=0.0) / kept_G).sqrt()[:, None]
        missing = _DIRECTIONS - change_GM.shape[1]
        change_GM = torch.nn.functional.pad(change_GM, (0, missing))
        place_N = torch.searchsorted(grid_G, score_N - _near(score_N)).clamp(max=num - 1)
        return change_GM[place_N].masked_fill(score_N.isneginf()[:, None], 0.0)

    @staticmethod
    def _slopes(upper_N: Tensor, lower_N: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Derivatives of the log-ratio by F and by F_-."""
        tie_N, best_N = upper_N - lower_N, upper_N**n - lower_N**n
        best_N = best_N.clamp(min=torch.finfo(torch.float64).tiny)
        return (
            n * upper_N ** (n - 1) / best_N - 1 / tie_N,
            1 / tie_N - n * lower_N ** (n - 1) / best_N,
        )


def _near(score_N: Tensor) -> Tensor:
    """How far apart the same score may be."""
    return (_TIE * score_N.abs().clamp(min=1.0)).where(score_N.isfinite(), 0.0)

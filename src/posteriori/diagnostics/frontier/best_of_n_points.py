"""Where best-of-n lies in the reward-KL plane, from draws of the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posteriori.core.estimates import by_prompt
from posteriori.core.numerics import variance_of_mean
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.types import Draws, Estimate
from posteriori.samplers.independent.best_of_n_law import best_of_n_kl

_DRAWS_EACH = 8
"""Draws for each of n: with fewer the best of n would be one and the same draw."""


@dataclass(frozen=True)
class BestOfN:
    """Best-of-n by the target's evidence: KL from the prior and mean reward, over prompts."""

    n: int
    kl: Estimate
    reward: Estimate


def best_of_n_points(pool: Draws) -> tuple[BestOfN, ...]:
    """n = 2, 4, 8, .. as far as an eighth of the draws per prompt."""
    rows = rows_of_prompts(pool.completions)
    most = min(map(len, rows)) // _DRAWS_EACH
    powers = [2**k for k in range(1, max(1, most).bit_length())]

    def reward(n: int) -> Estimate:
        return by_prompt(
            len(rows),
            lambda p: mean_reward_of_best(
                pool.log_evidence_N[rows[p]].cpu(), pool.reward_N[rows[p]].cpu(), n
            ),
            "consistent",
        )

    return tuple(BestOfN(n, best_of_n_kl(pool, n), reward(n)) for n in powers)


def mean_reward_of_best(score_N: Tensor, reward_N: Tensor, n: int) -> Estimate:
    """sum_v (F_v^n - F_(v-1)^n) m_v, m_v the mean reward of the draws of score v.

    Exact for the law that was drawn, so consistent. The standard error is the delta method's: the
    influence of a draw x is P_x (r_x - m_x) / p_x - sum_v c_v (1[x <= v] - F_v) with
    c_v = n F_v^(n-1) (m_(v+1) - m_v).
    """
    _, place_N, count_V = score_N.unique(return_inverse=True, return_counts=True)
    p_V = count_V.double() / len(score_N)
    f_V = p_V.cumsum(0)
    m_V = torch.zeros_like(p_V).index_add(0, place_N, reward_N.double()) / count_V
    if bool(m_V.isneginf().any()):
        # However small its probability, it may be all that there is to choose from.
        return Estimate(-math.inf, 0.0, "exact", len(score_N))
    best_V = f_V**n - torch.cat([torch.zeros(1, dtype=torch.float64), f_V[:-1] ** n])
    value = float((best_V * m_V).sum())
    c_V = n * f_V ** (n - 1) * torch.cat([m_V.diff(), torch.zeros(1, dtype=torch.float64)])
    from_x_V = c_V.flip(0).cumsum(0).flip(0)
    influence_N = (best_V / p_V)[place_N] * (reward_N - m_V[place_N])
    influence_N = influence_N - from_x_V[place_N] + float((c_V * f_V).sum())
    error = math.sqrt(float(variance_of_mean(influence_N)))
    return Estimate(value, error, "consistent", len(score_N))

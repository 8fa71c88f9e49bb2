"""Confidence sequences: intervals that hold at every look together, however long one looks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST_BET = 0.5
"""The largest share of its wealth that the bounded sequence bets on one draw."""


def asymptotic_factor(num: int, first: int, alpha: float) -> float:
    """By how much a standard error is widened at `num` draws, where the first look is at `first`.

        sqrt(2 (1 + 1/(n rho^2)) log(sqrt(n rho^2 + 1) / alpha)),
        rho^2 = (-2 log alpha + log(-2 log alpha) + 1) / first

    An asymptotic confidence sequence of level 1 - alpha for what is asymptotically linear in
    independent draws: value +- factor x standard error contains the truth at all looks from `first`
    on, with a probability that tends to at least 1 - alpha as `first` grows. About 3.0 at the first
    look and 3.3 at ten times as many draws, where an interval for one look has 1.96. (Waudby-Smith,
    Arbour, Sinha, Kennedy and Ramdas 2024, Annals of Statistics 52; arXiv 2103.06476, theorem 2.2.)
    """
    tight = -2.0 * math.log(alpha)
    ratio = num / first * (tight + math.log(tight) + 1.0)
    return math.sqrt(2.0 * (1.0 + 1.0 / ratio) * math.log(math.sqrt(ratio + 1.0) / alpha))


def bounded_sequence(value_RN: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Lower and upper ends after each of N draws in [0, 1], for R runs at once; [R, N] each.

        mean in sum l_i x_i / sum l_i  +-  (log(2/alpha) + sum v_i psi(l_i)) / sum l_i,
        v_i = 4 (x_i - mean_(i-1))^2,  psi(l) = (-log(1 - l) - l) / 4,
        l_i = min(1/2, sqrt(2 log(2/alpha) / (s2_(i-1) i log(1 + i))))

    The predictable plug-in empirical-Bernstein confidence sequence: it holds at all N looks
    together with probability at least 1 - alpha, for any law on [0, 1] and any N. (Waudby-Smith and
    Ramdas 2024, JRSS B 86; arXiv 2010.09686, theorem 2.)
    """
    x_RN = value_RN.double()
    count_N = torch.arange(1, x_RN.shape[-1] + 1, dtype=torch.float64)
    mean_RN = (0.5 + x_RN.cumsum(-1)) / (count_N + 1.0)
    spread_RN = (0.25 + (x_RN - mean_RN).square().cumsum(-1)) / (count_N + 1.0)
    before_RN = torch.nn.functional.pad(mean_RN[..., :-1], (1, 0), value=0.5)
    spread_before_RN = torch.nn.functional.pad(spread_RN[..., :-1], (1, 0), value=0.25)
    log_odds = math.log(2.0 / alpha)
    bet_RN = (2.0 * log_odds / (spread_before_RN * count_N * torch.log1p(count_N))).sqrt()
    bet_RN = bet_RN.clamp(max=_LEAST_BET)
    psi_RN = (-torch.log1p(-bet_RN) - bet_RN) / 4.0
    total_RN = bet_RN.cumsum(-1)
    centre_RN = (bet_RN * x_RN).cumsum(-1) / total_RN
    v_RN = 4.0 * (x_RN - before_RN).square()
    half_RN = (log_odds + (v_RN * psi_RN).cumsum(-1)) / total_RN
    return (centre_RN - half_RN).clamp(min=0.0), (centre_RN + half_RN).clamp(max=1.0)

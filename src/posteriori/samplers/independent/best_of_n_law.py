"""The law of the best of n draws, and how far it is from the law of one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posteriori.core.estimates import by_prompt
from posteriori.core.numerics import variance_of_mean
from posteriori.core.tensors import distinct_counts, distinct_places
from posteriori.core.types import Draws, Estimate


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1)/n: the largest KL(p_n, q) there is, that of a law of scores without ties."""
    return math.log(n) - (n - 1) / n


def best_of_n_log_ratio(probability_V: Tensor, n: int) -> Tensor:
    """log p_n - log q of each score of a finite law, [V], the scores in rising order.

    log [F^n - F_-^n] / [F - F_-], written as F^n [1 - (1 - p/F)^n] / p so that it keeps its
    precision where p is small.
    """
    p_V = probability_V.double()
    f_V = p_V.cumsum(0) / p_V.sum()
    p_V = p_V / p_V.sum()
    return n * f_V.log() + (-torch.expm1(n * torch.log1p(-p_V / f_V))).log() - p_V.log()


def best_of_n_log_prob(log_q_N: Tensor, score_N: Tensor, n: int) -> Tensor:
    """log p_n(y) of every outcome of a finite space: log q(y) in, scores beside it; [N], nats.

    Exact, ties and all: with `posteriori.exact`, what best-of-n is on a space that can be listed.
    """
    values_V, place_N = distinct_places(score_N)
    p_V = torch.zeros(len(values_V), dtype=torch.float64).index_add(0, place_N, log_q_N.exp())
    return log_q_N + best_of_n_log_ratio(p_V, n)[place_N]


def best_of_n_kl(pool: Draws, n: int) -> Estimate:
    """KL(p_n, q) in nats from independent draws of q: that of the law their evidence has.

    Consistent: exact for the law that was drawn, whose ties are those of the true one sooner or
    later; use many more draws than n. The standard error is the delta method's, by the influence
    of a draw on T = sum_v P_v log(P_v / p_v), P_v = F_v^n - F_(v-1)^n.
    """
    at_N = pool.completions.prompt_index_N

    def of_prompt(at: int) -> Estimate:
        score_n = pool.log_evidence_N[at_N == at].cpu()
        _, place_n, count_V = distinct_counts(score_n)
        p_V = count_V.double() / len(score_n)
        log_ratio_V = best_of_n_log_ratio(p_V, n)
        value = float((p_V * log_ratio_V.exp() * log_ratio_V).sum())
        # dT/dF_v (1[x <= v] - F_v) over the scores but the last, whose F is 1, and - P_x/p_x.
        slope_V = torch.zeros_like(p_V)
        slope_V[:-1] = n * p_V.cumsum(0)[:-1] ** (n - 1) * -log_ratio_V.diff()
        influence_V = slope_V.flip(0).cumsum(0).flip(0) - log_ratio_V.exp()
        error = (
            math.sqrt(float(variance_of_mean(influence_V[place_n])))
            if len(score_n) > 1
            else math.inf
        )
        return Estimate(value, error, "consistent", len(score_n))

    return by_prompt(len(pool.completions.prompt_set), of_prompt, "consistent")

"""KL(p*, pi), EUBO, entropy of p*, total variation and Jensen-Shannon, from draws of policy and
prior together.

All are expectations under the mixture m of `Mixture` of a function of two density ratios,
v = p*/m and u = pi/m, with p* = p~/Z-hat. The standard error takes account of Z-hat: by the delta
method a draw's influence is g(v, u) - E[v dg/dv] v.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from posteriori.core.types import Estimate
from posteriori.diagnostics.mixture import Mixture


class _Term(NamedTuple):
    """g(v, u) of each draw, and v dg/dv."""

    value_n: Tensor
    slope_n: Tensor


def kl_from_target(mixture: Mixture) -> Estimate:
    """KL(p*, pi) = E_m[v (log v - log u)]: what of the target the policy misses. Consistent."""

    def term(log_v_n: Tensor, log_u_n: Tensor) -> _Term:
        value_n = _times(log_v_n, log_v_n - log_u_n)
        return _Term(value_n, value_n + log_v_n.exp())

    return _expected(mixture, term, mixture.missed())


def eubo(mixture: Mixture) -> Estimate:
    """E_p*[log p~ - log pi] = log Z + KL(p*, pi) >= log Z. Consistent: the expectation under p* is
    by weighted draws, so the bound is certain only as far as the weights are."""

    def term(log_v_n: Tensor, log_u_n: Tensor) -> _Term:
        value_n = _times(log_v_n, log_v_n - log_u_n + mixture.log_z_value)
        return _Term(value_n, value_n)

    return _expected(mixture, term, mixture.missed())


def target_entropy(mixture: Mixture) -> Estimate:
    """H(p*) = log Z - E_p*[log p~] >= 0. Consistent.

    The influence of a draw is v (log Z + 1 - H - log p~), v = p*/m: log Z moves with v itself.
    """
    mean = mixture.target_mean([s.log_target_n for s in mixture.strata])
    value = mixture.log_z_value - mean.value
    if not math.isfinite(value):
        return Estimate(math.nan, math.inf, "consistent", mixture.num_draws)
    influence = [
        mixture.share
        * _times(w_n - mixture.log_z_value, mixture.log_z_value + 1 - value - s.log_target_n)
        for w_n, s in zip(mixture.log_weight, mixture.strata, strict=True)
    ]
    return mixture.estimate(value, influence, missed=mixture.missed())


def total_variation(mixture: Mixture) -> Estimate:
    """TV(pi, p*) = E_m|v - u| / 2, between 0 and 1. Consistent."""

    def term(log_v_n: Tensor, log_u_n: Tensor) -> _Term:
        v_n, u_n = log_v_n.exp(), log_u_n.exp()
        return _Term(0.5 * (v_n - u_n).abs(), 0.5 * (v_n - u_n).sign() * v_n)

    return _expected(mixture, term, mixture.missed())


def jensen_shannon(mixture: Mixture) -> Estimate:
    """JS(pi, p*) = E_m[v log(2v/(v+u)) + u log(2u/(v+u))] / 2, between 0 and log 2. Consistent."""

    def term(log_v_n: Tensor, log_u_n: Tensor) -> _Term:
        log_mean_n = torch.logaddexp(log_v_n, log_u_n) - math.log(2.0)
        of_target_n = 0.5 * _times(log_v_n, log_v_n - log_mean_n)
        of_policy_n = 0.5 * _times(log_u_n, log_u_n - log_mean_n)
        return _Term(of_target_n + of_policy_n, of_target_n)

    return _expected(mixture, term, mixture.missed() * math.log(2.0))


def _times(log_weight_n: Tensor, value_n: Tensor) -> Tensor:
    """exp(log_weight) value, with 0 x anything = 0."""
    return torch.where(log_weight_n.isneginf(), 0.0, log_weight_n.exp() * value_n)


def _expected(
    mixture: Mixture, term: Callable[[Tensor, Tensor], _Term], missed: float = 0.0
) -> Estimate:
    if mixture.log_z_value == -math.inf:
        return Estimate(math.nan, math.inf, "consistent", mixture.num_draws)
    log_v = [w - mixture.log_z_value for w in mixture.log_weight]
    terms = [term(v_n, u_n) for v_n, u_n in zip(log_v, mixture.log_policy_ratio(), strict=True)]
    value = mixture.mean([each.value_n for each in terms])
    if not math.isfinite(value):
        return Estimate(value, 0.0, "exact", mixture.num_draws)
    slope = mixture.mean([each.slope_n for each in terms])
    influence = [
        mixture.share * (each.value_n - slope * v_n.exp())
        for each, v_n in zip(terms, log_v, strict=True)
    ]
    return mixture.estimate(value, influence, missed=missed)

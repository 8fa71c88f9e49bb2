"""Divergences of a policy from its target, over all outcomes of one prompt: what an objective may
declare that its expected gradient descends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(log pi, log prior, log evidence) of every outcome of one prompt -> a scalar."""


def kl_to_target(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    return (log_pi.exp() * (log_pi - log_star(log_prior, log_evidence))).sum()


def minus_log_evidence(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:  # noqa: ARG001 - a Divergence
    return -(log_pi.exp() * log_evidence).sum()


def kl_from_target(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    star = log_star(log_prior, log_evidence)
    return mean_under(star, star - log_pi)


def jensen_shannon(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    star = log_star(log_prior, log_evidence)
    middle = ((log_pi.exp() + star.exp()) / 2).log()
    return (mean_under(star, star - middle) + mean_under(log_pi, log_pi - middle)) / 2


def total_variation(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    return (log_pi.exp() - log_star(log_prior, log_evidence).exp()).abs().sum() / 2


def chi2_from_target(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    return alpha_divergence(2.0)(log_pi, log_prior, log_evidence) * 2


def chi2_to_target(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    return alpha_divergence(-1.0)(log_pi, log_prior, log_evidence) * 2


def alpha_divergence(a: float) -> Divergence:
    """(sum p*^a pi^(1-a) - 1) / (a (a - 1))."""

    def divergence(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
        star = log_star(log_prior, log_evidence)
        return ((a * star + (1 - a) * log_pi).exp().sum() - 1) / (a * (a - 1))

    return divergence


def mean_under(log_p: Tensor, values: Tensor) -> Tensor:
    """E_p[values], where 0 x infinity = 0."""
    return torch.where(log_p.isneginf(), 0.0, log_p.exp() * values).sum()


def log_star(log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    return (log_prior + log_evidence).log_softmax(0)


BY_FORMULA: dict[str, Divergence] = {
    "KL(policy, target)": kl_to_target,
    "KL(target, policy)": kl_from_target,
    "JS(policy, target)": jensen_shannon,
    "TV(policy, target)": total_variation,
    "chi2(target, policy)": chi2_from_target,
    "chi2(policy, target)": chi2_to_target,
}
"""By what `Objective.divergence` says."""

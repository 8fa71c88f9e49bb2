"""Means of a policy's own draws, with what these may have missed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posteriori.core.estimates import mean
from posteriori.core.reliability import left_out, missed_of_mean
from posteriori.core.types import Estimate

from .mixture import Mixture, Stratum


def mean_of_policy(
    mixture: Mixture, value_n: Tensor, of_prior_m: Tensor | None, farthest: float = math.nan
) -> Estimate:
    """E_pi[f] by the policy's draws, f being `value_n`; unbiased.

    They may have missed what draws of the prior show (`of_prior_m`, f of these) and the policy
    writes no less often than the prior, f at `farthest`, and so much of what it writes less often
    as its own probabilities say (`reliability.left_out`).
    """
    shown_n = torch.tensor([farthest]).double()
    known = 0.0
    if of_prior_m is not None and len(mixture.strata) > 1:
        of_prior = mixture.strata[1]
        log_ratio_m = of_prior.log_pi_n - of_prior.log_prior_n
        shown_n = torch.cat([shown_n, of_prior_m[log_ratio_m >= 0]])
        known = left_out(value_n, of_prior_m, log_ratio_m)
    shown_n = shown_n[shown_n.isfinite()]
    away = math.nan
    if len(shown_n):
        away = float(shown_n[(shown_n - value_n.mean()).abs().argmax()])
    return mean(value_n, max(known, missed_of_mean(value_n, away)))


def mean_log_ratio(mixture: Mixture, *, of_evidence: bool) -> Estimate:
    """E_pi[log p~ - log pi], or KL(pi, prior) = E_pi[log pi - log prior].

    The farthest is the most evidence there is, where neither policy nor prior has been near it; of
    the prior itself every ratio to the prior is 1.
    """

    def value(s: Stratum) -> Tensor:
        return s.log_target_n - s.log_pi_n if of_evidence else s.log_pi_n - s.log_prior_n

    most = mixture.farthest_evidence()
    several = len(mixture.strata) > 1
    if not of_evidence:
        most = most - mixture.log_z_value if several else math.nan
    of_prior_m = value(mixture.strata[1]) if several else None
    return mean_of_policy(mixture, value(mixture.policy), of_prior_m, most)

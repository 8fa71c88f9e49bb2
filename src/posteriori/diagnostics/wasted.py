"""Wasted nats: what a policy spent and got nothing for, whatever beta was meant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from posteriori.core.estimates import at_least_zero, combine
from posteriori.core.reliability import NORMAL, ONLY_A_BOUND, WASTE_NOT_TRUSTED
from posteriori.core.types import Estimate, Finding

from .mixture import Mixture
from .nearest_posterior import Tilt
from .policy_means import mean_log_ratio
from .tempered_reliability import fault_at, unseen

_UNSEEN = 0.1
"""Most of p*_t that may lie where the prior's draws do not come, for a bound: as much again may lie
where no draw of the policy comes either, and log Z is off by a tenth then."""

_MOSTLY_UNSEEN = 0.5
"""More of p*_t than this, and a finding says that the estimate rests on the policy's own draws
alone."""

_STRONGEST = 10.0
"""How many times as strong as the target's own evidence to look, as for the frontier."""

_LOOKS = 16


@dataclass(frozen=True)
class Wasted:
    """`nats` = min over t >= 0 of mean_c KL(pi, p*_t), p*_t ~ prior e^t, and `beta` = unit / t.

    `nats.per_prompt` are the prompts' own KLs at the t that all share. `finding` says where the
    weights cannot be trusted; `bound` is true where `nats` is no more than an upper bound then.
    """

    t: float
    nats: Estimate
    beta: Estimate
    finding: Finding | None = None
    bound: bool = False


def wasted(mixtures: Sequence[Mixture], unit: float) -> Wasted:
    """min over t of log Z(t) - E_pi[log p~_t - log pi], from the draws of policy and prior.

    It equals KL(pi, prior) less the KL at which the frontier has the policy's mean log-evidence.
    For each t it is `Mixture.kl_to_target` of the tempered evidence, so where t > 0 it is no more
    than that of the target itself; at t = 0, where Z is known, it is the mean of log pi - log
    prior. Consistent. Its standard error is that at the minimiser held fixed, because the slope is
    zero there (envelope theorem); beta's is the delta method's, from the error of that slope over
    the curvature, and reaches the farther end of the interval of t.

    Where the weights at the minimiser cannot be trusted (`tempered_reliability.fault_at`) and it
    lies beyond the target's own strength, or at infinity, t ends where they can: the value is then
    an estimate of an upper bound, since KL falls up to the minimiser, and so is beta. Where no t
    can be trusted the bound is KL(pi, prior), which needs no weights, and beta is infinite.
    """
    tilt = _tilt(mixtures)
    t = tilt.nearest()
    fault = fault_at(mixtures, t)
    if fault and t > 1:
        return _bound(mixtures, t, unit, fault)
    finding = _doubtful(fault) if fault else _on_its_own(mixtures, t)
    return Wasted(t, _kl(mixtures, t), _beta(mixtures, tilt, t, unit), finding)


def _bound(mixtures: Sequence[Mixture], t: float, unit: float, fault: str) -> Wasted:
    largest = min(t, _STRONGEST)
    looks = [largest ** (1 - at / _LOOKS) for at in range(_LOOKS + 1)]
    known = (at for at in looks if not fault_at(mixtures, at) and unseen(mixtures, at) <= _UNSEEN)
    end = next(known, None)
    # Where no strength can be trusted there is the prior, of which KL needs no weights.
    nats = replace(_kl(mixtures, end) if end else _kl_to_prior(mixtures), kind="upper_bound")
    beta = Estimate(unit / end if end else math.inf, math.nan, "upper_bound", nats.num_draws)
    finding = _unknown(nats, beta, fault) if end else _doubtful(fault)
    return Wasted(end or 0.0, nats, beta, finding, bound=True)


def _tilt(mixtures: Sequence[Mixture]) -> Tilt:
    return Tilt(
        [
            torch.cat(
                [
                    s.log_prior_n - log_m_n + log_count_n
                    for s, log_m_n, log_count_n in zip(m.strata, m.log_m, m.log_count, strict=True)
                ]
            )
            for m in mixtures
        ],
        [torch.cat([s.log_evidence_n for s in m.strata]) for m in mixtures],
        sum(float(m.policy.log_evidence_n.mean()) for m in mixtures) / len(mixtures),
    )


def _kl(mixtures: Sequence[Mixture], t: float) -> Estimate:
    """mean_c KL(pi, p*_t). At t = 0 the limit t -> 0 where the policy keeps to hard evidence."""
    if t == 0 and _free(mixtures):
        return _kl_to_prior(mixtures)
    return at_least_zero(combine([m.tempered(t).kl_to_target() for m in mixtures], "consistent"))


def _kl_to_prior(mixtures: Sequence[Mixture]) -> Estimate:
    """mean_c KL(pi, prior): never below the least KL to p*_t, t = 0 being one of them."""
    each = [mean_log_ratio(m, of_evidence=False) for m in mixtures]
    return at_least_zero(combine(each, "consistent"))


def _free(mixtures: Sequence[Mixture]) -> bool:
    """Whether the prior itself is the nearest there is for t -> 0: nothing is ruled out, or the
    policy writes what is."""
    ruled_out = [any(bool(s.log_evidence_n.isneginf().any()) for s in m.strata) for m in mixtures]
    breaks = [bool(m.policy.log_evidence_n.isneginf().any()) for m in mixtures]
    return any(breaks) or not any(ruled_out)


def _beta(mixtures: Sequence[Mixture], tilt: Tilt, t: float, unit: float) -> Estimate:
    num = sum(m.num_draws for m in mixtures)
    curvature = tilt.curvature(t)
    if t == 0 or curvature <= tilt.zero:
        return Estimate(unit / t if t else math.inf, math.nan, "consistent", num)
    errors = [_error_of_slope(m, t) for m in mixtures]
    relative = math.hypot(*errors) / len(mixtures) / curvature / t
    # An interval of t is one of 1/t whose farther end is above.
    error = relative / (1.0 - NORMAL * relative) if NORMAL * relative < 1.0 else math.inf
    return Estimate(unit / t, unit / t * error, "consistent", num)


def _error_of_slope(mixture: Mixture, t: float) -> float:
    """Of E_t[log e] - E_pi[log e], the first by weighted draws."""
    tempered = mixture.tempered(t)
    influence = []
    mean_log_e = tempered.target_mean([s.log_evidence_n for s in mixture.strata]).value
    for w_n, stratum in zip(tempered.log_counted, mixture.strata, strict=True):
        v_n = (w_n - tempered.log_z_value).exp()
        centred_n = torch.where(v_n > 0, stratum.log_evidence_n - mean_log_e, 0.0)
        influence.append(mixture.share * v_n * centred_n)
    return tempered.estimate(0.0, influence, minus_n=mixture.policy.log_evidence_n).standard_error


def _on_its_own(mixtures: Sequence[Mixture], t: float) -> Finding | None:
    if t == 0 or not unseen(mixtures, t) > _MOSTLY_UNSEEN:
        return None
    return Finding(
        "info",
        "wasted_nats_by_its_own_draws",
        "wasted_nats and effective_beta count what the policy writes: hardly any draw of the prior "
        "came to where the posterior at effective_beta lies, so what both miss is not seen.",
        "Raise num_samples, or compare with annealed draws of the target.",
    )


def _doubtful(fault: str) -> Finding:
    return Finding(
        "warn",
        WASTE_NOT_TRUSTED,
        f"wasted_nats and effective_beta rest on few of the draws: {fault}.",
        "Raise num_samples, or evaluate a policy that is nearer to the target.",
    )


def _unknown(nats: Estimate, beta: Estimate, fault: str) -> Finding:
    return Finding(
        "info",
        ONLY_A_BOUND,
        f"wasted_nats is at most {nats.value:.3g}: the policy has more evidence than the "
        f"posterior at beta {beta.value:.3g}, the strongest that the draws can estimate. At the "
        f"nearest one {fault}.",
        "Raise num_samples to see further.",
    )

"""What the weights of draws say about how far they can be trusted, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from posteriori.core import reliability
from posteriori.core.estimates import combine, log_mean_weight, with_error_of_fit
from posteriori.core.numerics import log_mean_exp
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.target import Target
from posteriori.core.tensors import distinct, ints
from posteriori.core.types import Draws, Estimate, Finding, Kind

_HINT = "Draw more, use a policy as the proposal, or another sampler (smc, annealed)."


def log_z_of_pool(
    target: Target, pool: Draws, kind: Kind = "lower_bound", *, weighted: bool = False
) -> tuple[Estimate, list[Finding]]:
    """log Z by the weights of independent draws of a proposal, and the findings on it.

    `weighted`: the draws themselves go out with these weights. Otherwise log Z alone rests on them,
    and the finding is `core.reliability.LOG_Z_NOT_TRUSTED`.
    """
    rows = rows_of_prompts(pool.completions)
    weights = [pool.log_weight[mine].cpu() for mine in rows]
    most = largest_weights(target, pool)
    each = [
        log_mean_weight(log_w_n, kind, log_max_weight=bound)
        for log_w_n, bound in zip(weights, most, strict=True)
    ]
    if target.max_log_evidence is None:
        each = [_resting(z) for z in each]
    return combine(each, kind), findings_of_weights(target, pool, each, weighted=weighted)


def log_z_of_populations(target: Target, draws: Draws, log_z_PC: Tensor) -> Estimate:
    """log Z by the Z-hat of independent populations of particles, [prompts, populations].

    The error is that over populations, and no less than that of the particles' own weights were
    they independent: a few populations agree by chance. It contains what particles find by chance
    alone (`core.reliability.largest_missed`).
    """
    rows = rows_of_prompts(draws.completions)
    evidence = [draws.log_evidence_N[mine].cpu() for mine in rows]
    most = reliability.most_evidence(evidence, target.max_log_evidence)
    each = [
        log_mean_weight(
            log_z_C,
            log_max_weight=reliability.largest_missed(
                draws.log_weight[mine].cpu(),
                draws.log_prior_N[mine].cpu(),
                log_e_n,
                bound,
                from_prior=_from_prior(draws, mine),
            ),
            num_draws=len(mine),
        )
        for log_z_C, mine, log_e_n, bound in zip(log_z_PC, rows, evidence, most, strict=True)
    ]
    floors = [_error_of_weights(draws.log_weight[mine].cpu()) for mine in rows]
    each = [
        z
        if not floor > z.standard_error
        else replace(z, standard_error=floor, degrees_of_freedom=z.num_draws - 1.0)
        for z, floor in zip(each, floors, strict=True)
    ]
    return combine(each, "lower_bound")


def with_error_of_lambda(target: Target, draws: Draws) -> Estimate | None:
    """log Z of finished draws, with what evidence that was fitted to others leaves open in it:
    E_p*[d log e], d log e one standard error of the fit (`core.protocols.ErrorsOfFit`)."""
    log_z, num_prompts = draws.log_z, len(draws.completions.prompt_set)
    if log_z is None or len(log_z.per_prompt) != num_prompts:
        return log_z
    errors = target.errors_of_fit(draws.completions)
    if errors is None:
        return log_z
    change_PM = torch.zeros(num_prompts, errors.change_NM.shape[1], dtype=torch.float64)
    for at, mine in enumerate(rows_of_prompts(draws.completions)):
        log_w_n = draws.log_weight[mine].cpu()
        if bool((log_w_n > -math.inf).any()):
            change_PM[at] = log_w_n.softmax(0) @ errors.change_NM[mine]
    return with_error_of_fit(log_z, change_PM, shared=errors.shared)


def _error_of_weights(log_w_n: Tensor) -> float:
    """Of log Z by so many independent weights; NaN where that is not known."""
    share_n = log_w_n.softmax(0)
    return float(share_n.std()) * math.sqrt(len(share_n))


def largest_weights(target: Target, pool: Draws) -> list[float]:
    """The largest log-weight that a draw for each prompt may have, nats; -inf where it is not
    known.

    Of the prior's own draws that is the most evidence. Of another proposal's it is not known how
    much more probable an outcome may be under the prior; where none of its draws is near the most
    evidence, the largest ratio that was seen stands for it.
    """
    rows = rows_of_prompts(pool.completions)
    evidence = [pool.log_evidence_N[mine].cpu() for mine in rows]
    most = reliability.most_evidence(evidence, target.max_log_evidence)
    found: list[float] = []
    for mine, log_e_n, bound in zip(rows, evidence, most, strict=True):
        if _from_prior(pool, mine) or reliability.beyond(log_e_n, bound):
            log_ratio_n = (pool.log_prior_N - pool.log_proposal_N)[mine].cpu()
            found.append(bound + (float(log_ratio_n.max()) if len(log_ratio_n) else 0.0))
        else:
            found.append(-math.inf)
    return found


def _from_prior(draws: Draws, mine: Tensor) -> bool:
    return bool((draws.log_prior_N == draws.log_proposal_N)[mine].all())


def findings_of_draws(draws: Draws, target: Target) -> list[Finding]:
    """Findings on finished draws: by their weights, where they have any that count."""
    if draws.guarantee == "exact":
        return []
    log_z = None if draws.log_z is None else draws.log_z.per_prompt
    if log_z is not None and len(log_z) != len(draws.completions.prompt_set):
        log_z = None
    weighs = draws.guarantee == "properly_weighted" or draws.log_weight_N is None
    return findings_of_weights(target, draws, log_z, weighted=True, judged=weighs)


def findings_of_weights(
    target: Target,
    draws: Draws,
    log_z: Sequence[Estimate] | None = None,
    *,
    weighted: bool = True,
    judged: bool = True,
) -> list[Finding]:
    """Whether any draw of each prompt has weight, and, where weights are to be `judged`, whether
    they can be trusted (`core.reliability.fault`). `log_z`: what they say of it, prompt by prompt,
    where that is known already."""
    rows = rows_of_prompts(draws.completions)
    weights = [draws.log_weight[mine].cpu() for mine in rows]
    alive = [bool((log_w_n > -math.inf).any()) for log_w_n in weights]
    prompts = draws.completions.prompt_set
    without = [str(p) for p, lives in zip(prompts, alive, strict=True) if not lives]
    found: list[Finding | None] = []
    if without and weighted:
        found.append(
            Finding(
                "stop",
                reliability.NEVER_SATISFIED,
                f"No draw has any weight for {len(without)} of {len(prompts)} prompts, the "
                f"first {without[0][:60]!r}.",
                "Draw more, or from a proposal that is nearer to the target.",
            )
        )
    if judged:
        each = [_log_z_of(draws, mine) for mine in rows] if log_z is None else log_z
        most = largest_weights(target, draws)
        evidence = [draws.log_evidence_N[mine].cpu() for mine in rows]
        priors = [draws.log_prior_N[mine].cpu() for mine in rows]
        groups = [None if draws.group_N is None else draws.group_N[mine].cpu() for mine in rows]
        faults = [
            _fault(log_w_n, z, prior_n, log_e_n, bound, group_n, target.max_log_evidence)
            if lives or not weighted
            else ""
            for log_w_n, z, prior_n, log_e_n, bound, lives, group_n in zip(
                weights, each, priors, evidence, most, alive, groups, strict=True
            )
        ]
        name = reliability.NOT_TRUSTED if weighted else reliability.LOG_Z_NOT_TRUSTED
        what = "log_z rests on few of the draws and is likely too low" + (
            ", and resampled draws repeat themselves." if weighted else "."
        )
        found.append(reliability.finding(faults, what, _HINT, name))
        found.append(reliability.never_varies(evidence, target.max_log_evidence))
    return [each for each in found if each is not None]


def _fault(
    log_w_n: Tensor,
    log_z: Estimate,
    log_prior_n: Tensor,
    log_e_n: Tensor,
    log_max_weight: float,
    group_n: Tensor | None,
    stated: float | None,
) -> str:
    """`core.reliability.fault_of`, and `fault_of_groups`. An infinite error, of a single
    population, hides nothing."""
    groups = 0 if group_n is None else len(distinct(group_n))
    known = group_n is None and log_max_weight > -math.inf
    known = known and reliability.is_known(log_e_n, stated)
    if group_n is None or reliability.jumps(log_e_n, log_max_weight):
        largest = max(float(log_w_n.max()), log_max_weight)
    else:
        beyond = reliability.largest_missed(
            log_w_n, log_prior_n, log_e_n, log_max_weight, from_prior=log_max_weight > -math.inf
        )
        largest = max(log_z.value, beyond)
    missed = reliability.missed(log_z.value, largest, len(log_w_n))
    if not math.isfinite(log_z.standard_error):
        missed = 0.0
        log_z = Estimate(log_z.value, 0.0, log_z.kind, log_z.num_draws)
    found = reliability.fault_of(log_w_n, log_z, missed=missed, known=known, populations=groups)
    if found or group_n is None or groups < 2:
        return found
    alone = _error_of_weights(log_w_n)
    if alone > reliability.LARGE_ERROR:
        return reliability.large(alone)
    return reliability.fault_of_groups(log_w_n, log_e_n, group_n)


def _log_z_of(draws: Draws, mine: Tensor) -> Estimate:
    """Of one prompt's weights; groups of draws that depend on each other count as one each."""
    log_w_n = draws.log_weight[mine].cpu()
    if not bool((log_w_n > -math.inf).any()):
        return Estimate(-math.inf, math.inf, "lower_bound", len(log_w_n))
    if draws.group_N is None:
        return log_mean_weight(log_w_n)
    group_n = draws.group_N[mine].cpu()
    means = [log_mean_exp(log_w_n[group_n == g]) for g in ints(distinct(group_n))]
    return log_mean_weight(torch.stack(means), num_draws=len(log_w_n))


def _resting(log_z: Estimate) -> Estimate:
    if log_z.value == -math.inf:
        return log_z
    return replace(log_z, findings=(reliability.rests_on(log_z.value, log_z.num_draws),))

"""Rejection where exact draws would cost too much: a proposal that keeps to the constraints, and
acceptance by a threshold below the bound, whose excess stays as a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from posteriori.core.estimates import combine
from posteriori.core.numerics import log_mean_exp
from posteriori.core.occurrence import Prompt
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.tensors import floats, ints
from posteriori.core.types import Draws, Estimate, Finding
from posteriori.samplers.base import Job
from posteriori.samplers.smc.looked_ahead import looked_ahead

from .acceptance_stream import Accepted, accepted_draws, budget_of, equal
from .qrs_curve import threshold_for

_NAME = "rejection"
_ACCEPTANCE = 0.1
"""Share of the proposal's draws that is accepted: more even weights cost more draws."""


def starves(pilot: Draws, job: Job, log_m: float, max_draws: int | None) -> bool:
    """Whether some prompt's budget ends before M/Z draws of the prior for each one asked for, by
    the Z-hat of the pilot's weights. Where no weight of the pilot is above 0, nothing is known."""
    log_z_P = _log_z(pilot)
    if not bool((log_z_P > -math.inf).all()):
        return False
    enough = max(2, job.num_samples)
    log_needed = log_m - float(log_z_P.min()) + math.log(enough)
    return log_needed > math.log(budget_of(max_draws, job.num_samples))


def log_thresholds(pilot: Draws, log_m: float) -> Tensor:
    """log c of each prompt [P]: that which accepts a tenth of its pilot, and the bound at most."""
    weights = [pilot.log_weight[mine].cpu() for mine in rows_of_prompts(pilot.completions)]
    chosen = [min(log_m, threshold_for(log_w_n, _ACCEPTANCE)) for log_w_n in weights]
    return torch.tensor(chosen, dtype=torch.float64)


def rejection_control(
    job: Job, pilot: Draws, lookahead: int, log_m: float, max_draws: int | None
) -> Draws:
    """y ~ q with weight W (`looked_ahead`), accepted with probability min(1, W/c), and then of
    weight max(W, c):

        E[accepted max(W, c) f(y)] = E_q[W f(y)] = sum_y p~(y) f(y)   for every f and c > 0

    so with Z-hat = c x acceptance rate x mean of max(W/c, 1) the draws weigh
    Z-hat max(W/c, 1) / its mean. Properly weighted: c is the pilot's, whose draws are not used
    again; the rate is unbiased (`Accepted.log_rate`), and which outcomes were accepted does not
    depend on how many trials it took. Weights below c are even; c at the bound would be exact.
    (Liu, Chen and Wong 1998, rejection control; the proposal: `Lookahead`.)
    """
    log_c_P = log_thresholds(pilot, log_m)
    # None of the pilot's draws, and their cost.
    job.keep(replace(equal(pilot.select(slice(0, 0))), guarantee="properly_weighted"))

    def source(size: int, tried: int, prompts: Sequence[Prompt]) -> Draws:
        return looked_ahead(job, lookahead, size, prompts, (_NAME, tried))

    def log_c(draws: Draws) -> Tensor:
        at_N = job.target.prompt_positions(draws.completions)
        return log_c_P.to(at_N.device)[at_N]

    accepted = accepted_draws(
        job,
        _NAME,
        lambda draws: log_accept(draws, log_c(draws)),
        max_draws,
        source,
        lambda draws: excess(draws, log_c(draws)),
    )
    log_scale_P, each = log_z_hat(accepted, log_c_P)
    draws = accepted.draws
    at_N = job.target.prompt_positions(draws.completions)
    log_w_N = draws.log_weight + log_scale_P.to(at_N.device)[at_N]
    return replace(
        draws,
        log_weight_N=log_w_N,
        guarantee="properly_weighted",
        log_z=combine(each, "lower_bound"),
        findings=(_said(_log_z(pilot), log_m), *accepted.findings),
    )


def log_accept(draws: Draws, log_c_N: Tensor) -> Tensor:
    """log min(1, W/c), [N]."""
    return (draws.log_weight - log_c_N).clamp(max=0.0)


def excess(draws: Draws, log_c_N: Tensor) -> Draws:
    """The draws with what acceptance has left of their weights, max(W/c, 1)."""
    log_w_N = (draws.log_weight - log_c_N).clamp(min=0.0)
    return replace(draws, log_weight_N=log_w_N, guarantee="properly_weighted")


def log_z_hat(accepted: Accepted, log_c_P: Tensor) -> tuple[Tensor, list[Estimate]]:
    """log(c x rate) of each prompt [P], and log Z-hat: its error is that of the rate and, which is
    independent of it, that of the mean of max(W/c, 1) over the draws that were accepted."""
    scales: list[float] = []
    each: list[Estimate] = []
    tried = ints(accepted.tried_P)
    rows = rows_of_prompts(accepted.draws.completions)
    for at, (log_c, mine) in enumerate(zip(floats(log_c_P), rows, strict=True)):
        log_rate, error = accepted.log_rate(at)
        scales.append(log_c + log_rate)
        if len(mine):
            log_v_n = accepted.draws.log_weight[mine].cpu()
            share_n = log_v_n.softmax(0)
            spread = float(share_n.std()) * math.sqrt(len(share_n)) if len(share_n) > 1 else 0.0
            value, error = scales[-1] + float(log_mean_exp(log_v_n)), math.hypot(error, spread)
        else:
            value = -math.inf
        each.append(Estimate(value, error, "lower_bound", tried[at]))
    return torch.tensor(scales, dtype=torch.float64), each


def _log_z(pilot: Draws) -> Tensor:
    """log Z-hat of each prompt [P]."""
    return torch.tensor(
        [log_mean_exp(pilot.log_weight[mine].cpu()) for mine in rows_of_prompts(pilot.completions)],
        dtype=torch.float64,
    )


def _said(log_z_P: Tensor, log_m: float) -> Finding:
    trials = (log_m - float(log_z_P.min())) / math.log(10)
    return Finding(
        "info",
        "next_tokens_checked",
        f"About 1 in 10^{trials:.0f} draws of the prior would be accepted, so next tokens were "
        "checked before they were drawn: the draws keep to the constraints and are independent, "
        "and carry weights.",
        "Resample them by their weights; lookahead=0 turns this off.",
    )

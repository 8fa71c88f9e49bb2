"""What one step's fresh draws say of the policy that made or met them: is it nearer than the model
that it started as, and should its whole displacement from that be larger or smaller?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from posteriori.core.types import Draws
from posteriori.objectives.base import count_by, log_sum_by


class Signal(NamedTuple):
    """Of one step; nats, float64 in Python.

    `gain` estimates how much nearer to the target the policy is than its start (the prior, or
    another model) would be, up to a constant of the run: the ELBO, or KL(p*, start) - KL(p*, pi).
    `slope` and `curvature` are the derivatives of that gain as the displacement l = log pi - log
    start is scaled, at scale 1.
    `gain_variance` and `slope_variance` are the variances of these means.
    """

    gain: float
    gain_variance: float
    slope: float
    slope_variance: float
    curvature: float


def signal_of(
    draws: Draws, log_prob_N: Tensor, *, forward: bool, log_start_N: Tensor | None = None
) -> Signal | None:
    """From draws that no update has used yet, log pi of each, and log-prob under what the policy
    started as (left out: the prior); None where nothing has weight.

    With a_i ~ pi/q and b_i ~ p~/q, normalised within each prompt to a mean of 1, and rho = log p~ -
    log pi: the reverse gain is mean a rho, its slope Cov_a(rho, l); the forward gain is mean b l,
    its slope mean (b - a) l. Both have curvature -Var_a(l): scaling l is an exponential family.
    """
    prompt_N = draws.completions.prompt_index_N
    log_target_N = draws.log_prior_N + draws.log_evidence_N
    shift_N = log_prob_N - (draws.log_prior_N if log_start_N is None else log_start_N)
    a_N = _shares(log_prob_N - draws.log_proposal_N, prompt_N)
    centred_N = shift_N - _mean(a_N * shift_N, prompt_N)
    if forward:
        b_N = _shares(log_target_N - draws.log_proposal_N, prompt_N)
        useful_N = _mean(b_N, prompt_N) > 0
        if not bool(useful_N.any()):
            return None
        gain_N, slope_N = b_N * shift_N, (b_N - a_N) * centred_N
        gain_N, slope_N, a_N = (each[useful_N] for each in (gain_N, slope_N, a_N))
        centred_N, prompt_N = centred_N[useful_N], prompt_N[useful_N]
    else:
        rho_N = log_target_N - log_prob_N
        gain_N = a_N * rho_N
        slope_N = a_N * (rho_N - _mean(gain_N, prompt_N)) * centred_N
    return Signal(
        float(gain_N.mean()),
        _variance_of_mean(gain_N, prompt_N),
        float(slope_N.mean()),
        _variance_of_mean(slope_N, prompt_N),
        float((a_N * centred_N.square()).mean()),
    )


def _shares(log_w_N: Tensor, prompt_N: Tensor) -> Tensor:
    """Weights with mean 1 within each prompt; 0 where none of a prompt's draws has any."""
    log_mean_N = (log_sum_by(log_w_N, prompt_N) - count_by(prompt_N).log())[prompt_N]
    return (log_w_N - log_mean_N).exp().where(log_w_N > -torch.inf, 0.0)


def _mean(values_N: Tensor, prompt_N: Tensor) -> Tensor:
    """The mean over each draw's prompt, [N]."""
    size = int(prompt_N.max()) + 1
    total_P = values_N.new_zeros(size).index_add(0, prompt_N, values_N)
    return (total_P / count_by(prompt_N, size))[prompt_N]


def _variance_of_mean(values_N: Tensor, prompt_N: Tensor) -> float:
    """Within prompts, whose means are what the step's draws share. Single draws do not show a
    spread of their own: that between prompts is taken with it, which is more. NaN for one draw."""
    freedom = len(values_N) - len(prompt_N.unique())
    if freedom == 0:
        return float(values_N.var() / len(values_N)) if len(values_N) > 1 else math.nan
    residual_N = values_N - _mean(values_N, prompt_N)
    return float(residual_N.square().sum() / freedom / len(values_N))

"""Conditional SMC: an upper bound on log Z from exact draws of the posterior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from posteriori.core.estimates import combine, log_mean_weight
from posteriori.core.protocols import LanguageModel
from posteriori.core.run.out_of_memory import explained
from posteriori.core.same_outcomes import check_outcomes_of
from posteriori.core.target import Target
from posteriori.core.types import Completions, Draws, Estimate
from posteriori.errors import SamplingError
from posteriori.samplers.base import Job, Progress

from .make_twist import make_twist
from .populations import Plan
from .smc import in_parts


@explained("sampling", "set a lower num_samples, max_new_tokens or memory_gib")
def conditional_log_z(
    target: Target,
    exact_draws: Draws | Completions,
    particles: int = 64,
    proposal: LanguageModel | None = None,
    seed: int = 0,
    *,
    twist: Any = "none",
    ess_threshold: float | None = None,
    on_progress: Progress | None = None,
) -> Estimate:
    """log Z-hat = -log (1/M) sum_m 1 / Z-hat_m,  Z-hat_m of SMC with y*_m ~ p* among its particles.

    Each of a prompt's M exact draws is the first particle of a population of its own, always its
    own ancestor; the others are resampled around it, multinomially: E[1 / Z-hat_m] = S / Z, with S
    the probability that an ordinary run keeps a particle with any weight (1 unless there is hard
    evidence). So the estimate is above log Z in expectation (nats), by -log S at least, and tends
    to it with more particles. One a prompt inside; the standard error is that of the mean of
    1 / Z-hat_m, relative.

    `exact_draws` are draws that a sampler guarantees to be exact (rejection), or completions which
    the caller knows to be. Raises `SamplingError` for others, and for prompts that have none.
    Source: Andrieu, Doucet and Holenstein 2010; Zhao et al. 2024 (arXiv 2404.17546, section 5).
    """
    completions = _exact(exact_draws)
    check_outcomes_of(target.prior, completions, "exact_draws")
    position_M = target.prompt_positions(completions)
    order_M = position_M.argsort(stable=True)
    pinned, prompt_M = completions.select(order_M), position_M[order_M].cpu()
    count_P = prompt_M.bincount(minlength=len(target.prompts))
    if not bool((count_P > 0).all()):
        missing = target.prompts[int((count_P == 0).nonzero()[0])]
        raise SamplingError(
            f"the prompt {str(missing)[:60]!r} has no exact draw",
            hint="draw more with rejection, until every prompt has some",
        )
    job = Job(target, proposal or target.prior, particles, seed, on_progress)
    plan = Plan(target, job.proposal, make_twist(twist), "multinomial", ess_threshold)
    size_M = torch.full((len(pinned),), particles)
    log_z_M = torch.cat([log_z for _, log_z in in_parts(job, plan, prompt_M, size_M, pinned)])
    estimates = [_inverse(log_mean_weight(-each)) for each in log_z_M.split(count_P.tolist())]
    return combine(estimates, "upper_bound")


def _inverse(estimate: Estimate) -> Estimate:
    return replace(estimate, value=-estimate.value, kind="upper_bound")


def _exact(draws: Draws | Completions) -> Completions:
    if isinstance(draws, Completions):
        return draws
    if draws.guarantee != "exact":
        raise SamplingError(
            f"an upper bound needs exact draws of the target, and these are {draws.guarantee}",
            hint="draw them with rejection, or enumerate",
        )
    return draws.completions

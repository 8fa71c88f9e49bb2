"""Conditional SMC: an upper bound on log Z from exact draws of the posterior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from posteriori.core.completions import Completions
from posteriori.core.estimates import combine, log_mean_weight
from posteriori.core.protocols import LanguageModel
from posteriori.core.run.out_of_memory import explained
from posteriori.core.same_outcomes import check_outcomes_of
from posteriori.core.target import Target
from posteriori.core.tensors import split_by
from posteriori.core.types import Draws, Estimate
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import SamplingError
from posteriori.samplers.base import Job, Progress

from .make_twist import make_twist
from .populations import Plan
from .smc import in_parts


@named_arguments
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
    """An upper bound on log Z in expectation, from SMC around exact draws of the target.

        log Z-hat = -log (1/M) sum_m 1 / Z-hat_m,   Z-hat_m of SMC with y*_m ~ p* in it

    Each of a prompt's M exact draws is the first particle of a population of its own, always its
    own ancestor: E[1 / Z-hat_m] = S / Z, with S the probability that an ordinary run keeps a
    particle with any weight (1 unless there is hard evidence). The bound tends to log Z, less log
    S, with more particles. Source: Andrieu, Doucet and Holenstein 2010; Zhao et al. 2024 (arXiv
    2404.17546, section 5).

    Args:
        target: the target.
        exact_draws: draws of a sampler whose guarantee is "exact" (rejection), or completions that
            are known to be.
        particles: per exact draw.
        proposal: what draws the particles; default: the prior.
        seed: of the particles.
        twist: as of the sampler "smc".
        ess_threshold: as of the sampler "smc".
        on_progress: counts steps over tokens.

    Returns:
        The bound in nats, of kind "upper_bound", with one per prompt inside; the standard error is
        the relative one of the mean of 1 / Z-hat_m.

    Raises:
        SamplingError: for draws that are not exact, and for prompts that have none.

    Example:
        >>> bounded = po.Target(prior, po.Reward(reward, beta=0.5, max_reward=3.0), ["x", "y"], 3)
        >>> exact_draws = po.sample(bounded, "rejection", num_samples=8, seed=0)
        >>> po.conditional_log_z(bounded, exact_draws, particles=16, seed=0).kind
        'upper_bound'
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
    estimates = [_inverse(log_mean_weight(-each)) for each in split_by(log_z_M, count_P)]
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

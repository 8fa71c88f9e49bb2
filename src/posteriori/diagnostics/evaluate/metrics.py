"""The figures of a report, each the mean over prompts with one per prompt inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.estimates import at_least_zero, by_prompt, combine, mean, worst
from posteriori.core.hooks import BoundedReward, rewards_among
from posteriori.core.reliability import SURPRISE, missed_of_mean, rarest
from posteriori.core.rows_of_prompts import rows_of_prompts, split_rows
from posteriori.core.target import Target
from posteriori.core.types import Draws, Estimate
from posteriori.diagnostics.diversity import distinct_n, self_bleus, unique_fraction
from posteriori.diagnostics.mixture import Mixture, Stratum
from posteriori.diagnostics.policy_means import mean_log_ratio, mean_of_policy
from posteriori.diagnostics.quantiles import QUANTILES, combined, quantile
from posteriori.diagnostics.wasted import Wasted

from . import divergences
from .bounds import log_z_upper
from .perplexity import perplexity

FIGURES = (
    "log_z",
    "elbo",
    "eubo",
    "kl_to_target",
    "kl_from_target",
    "tv",
    "js",
    "wasted_nats",
    "effective_beta",
    "kl_to_prior",
    "entropy",
    "target_entropy",
    "mean_reward",
    *QUANTILES,
    "ess",
    "pareto_k",
    "perplexity",
    "truncated",
    "distinct_2",
    "unique_fraction",
    "self_bleu",
)


def figures_of(
    draws: Draws,
    of_prior: Draws | None,
    mixtures: Sequence[Mixture],
    waste: Wasted,
    *,
    max_reward: float = math.nan,
) -> dict[str, Estimate]:
    """All of `FIGURES`. `draws` are the policy's own, `of_prior` those of the prior where that is
    another model, `mixtures` one per prompt, and `max_reward` the largest reward there can be, NaN
    where it is not known."""
    num_prompts = len(mixtures)
    texts = [of_prompt(draws, at) for at in range(num_prompts)]
    near = distances_of(mixtures)

    figures = {
        "log_z": near["log_z"],
        "elbo": near["elbo"],
        "eubo": combine([divergences.eubo(m) for m in mixtures], "consistent"),
        "kl_to_target": near["kl_to_target"],
        "kl_from_target": at_least_zero(
            combine([divergences.kl_from_target(m) for m in mixtures], "consistent")
        ),
        "tv": combine([divergences.total_variation(m) for m in mixtures], "consistent"),
        "js": combine([divergences.jensen_shannon(m) for m in mixtures], "consistent"),
        "wasted_nats": waste.nats,
        "effective_beta": waste.beta,
        "kl_to_prior": near["kl_to_prior"],
        "entropy": _entropy(draws, num_prompts),
        "target_entropy": at_least_zero(
            combine([divergences.target_entropy(m) for m in mixtures], "consistent")
        ),
        "mean_reward": mean_reward(draws, of_prior, mixtures, max_reward),
    }
    for name, level in QUANTILES.items():
        figures[name] = combined(
            [quantile(draws.reward_N[rows(draws, i)], level) for i in range(num_prompts)]
        )
    return {
        **figures,
        "ess": combine([m.ess() for m in mixtures], "consistent"),
        "pareto_k": worst([m.pareto_k() for m in mixtures]),
        "perplexity": by_prompt(
            num_prompts,
            lambda i: perplexity(
                draws.log_prior_N[rows(draws, i)], texts[i].lengths_N, mixtures[i].most_lifted()
            ),
            "consistent",
        ),
        "truncated": _truncated(draws, num_prompts),
        "distinct_2": combine([distinct_n(each, 2) for each in texts], "heuristic"),
        "unique_fraction": combine([unique_fraction(each) for each in texts], "heuristic"),
        "self_bleu": combine(
            self_bleus(draws.completions, rows_of_prompts(draws.completions)), "heuristic"
        ),
    }


def distances_of(mixtures: Sequence[Mixture]) -> dict[str, Estimate]:
    """log_z, elbo, kl_to_target and kl_to_prior of `FIGURES`."""
    elbo = [mean_log_ratio(m, of_evidence=True) for m in mixtures]
    from_prior = [mean_log_ratio(m, of_evidence=False) for m in mixtures]
    return {
        "log_z": combine([m.log_z() for m in mixtures], "lower_bound"),
        "elbo": combine(elbo, "unbiased"),
        "kl_to_target": at_least_zero(combine([m.kl_to_target() for m in mixtures], "consistent")),
        "kl_to_prior": at_least_zero(combine(from_prior, "unbiased")),
    }


def mean_reward(
    draws: Draws, of_prior: Draws | None, mixtures: Sequence[Mixture], max_reward: float
) -> Estimate:
    """E_pi[r], the mean over prompts, unbiased."""

    def of(at: int) -> Estimate:
        others_m = None if of_prior is None else of_prior.reward_N[rows(of_prior, at)].cpu()
        value_n = draws.reward_N[rows(draws, at)].cpu()
        return mean_of_policy(mixtures[at], value_n, others_m, max_reward)

    return by_prompt(len(mixtures), of, "unbiased")


def _truncated(draws: Draws, num_prompts: int) -> Estimate:
    cut_N = draws.completions.truncated_N.double()

    def of(at: int) -> Estimate:
        cut_n = cut_N[rows(draws, at)]
        return mean(cut_n, missed_of_mean(cut_n, math.nan))

    return by_prompt(num_prompts, of, "unbiased")


def _entropy(draws: Draws, num_prompts: int) -> Estimate:
    """E_pi[-log pi]. An outcome that n draws have missed has a probability of at most 3/n, and so a
    -log pi of at least log(n/3)."""

    def of(at: int) -> Estimate:
        surprise_n = -draws.log_proposal_N[rows(draws, at)]
        return mean(surprise_n, missed_of_mean(surprise_n, rarest(surprise_n), SURPRISE))

    return by_prompt(num_prompts, of, "unbiased")


def bounded(
    target: Target, mixtures: Sequence[Mixture], posterior: Draws, log_pi_N: Tensor
) -> dict[str, Estimate]:
    """What exact draws of the target say, in place of weighted ones."""
    position_N = target.prompt_positions(posterior.completions)
    of_prompts = split_rows(position_N, len(mixtures))
    strata = [stratum(posterior, log_pi_N, each) for each in of_prompts]
    eubo = [mean(each.log_target_n - each.log_pi_n) for each in strata]
    of_weights = [_log_z(m, posterior, at) for at, m in enumerate(mixtures)]
    kl = [
        replace(
            above,
            value=above.value - below.value,
            standard_error=math.hypot(above.standard_error, below.standard_error),
        )
        for above, below in zip(eubo, of_weights, strict=True)
    ]
    entropy = [
        replace(
            z,
            value=z.value - each.value,
            standard_error=math.hypot(z.standard_error, each.standard_error),
        )
        for z, each in zip(of_weights, [mean(s.log_target_n) for s in strata], strict=True)
    ]
    upper = [
        log_z_upper(m, each) if m.log_z_value > -math.inf else replace(z, kind="upper_bound")
        for m, each, z in zip(mixtures, strata, of_weights, strict=True)
    ]
    unseen = any(m.log_z_value == -math.inf for m in mixtures)
    return {
        **({"log_z": combine(of_weights, "lower_bound")} if unseen else {}),
        "eubo": combine(eubo, "unbiased"),
        "kl_from_target": at_least_zero(combine(kl, "consistent")),
        "target_entropy": at_least_zero(combine(entropy, "consistent")),
        "log_z_upper": combine(upper, "upper_bound"),
    }


def _log_z(mixture: Mixture, posterior: Draws, at: int) -> Estimate:
    """By the draws of policy and prior; where none has any evidence, as the sampler of the exact
    draws has it."""
    of_sampler = posterior.log_z
    if mixture.log_z_value > -math.inf or of_sampler is None:
        return mixture.log_z()
    if len(of_sampler.per_prompt) <= at:
        return mixture.log_z()
    return of_sampler.per_prompt[at]


def rows(draws: Draws, index: int) -> Tensor:
    """Which draws are of the prompt at `index`; their positions. Found for all prompts at once."""
    return rows_of_prompts(draws.completions)[index]


def of_prompt(draws: Draws, index: int) -> Completions:
    return draws.completions.select(rows(draws, index))


def max_reward_of(target: Target) -> float:
    """The largest reward that there can be, in its own units; NaN where it is not stated."""
    rewards = rewards_among(target.evidence)
    if len(rewards) != 1 or not isinstance(rewards[0], BoundedReward):
        return math.nan
    stated = rewards[0].max_reward
    return math.nan if stated is None else stated


def stratum(draws: Draws, log_pi_N: Tensor, rows_N: Tensor) -> Stratum:
    """Some of the draws, with their log-probs under the policy, for a `Mixture`."""
    return Stratum(
        log_pi_N[rows_N].cpu(), draws.log_prior_N[rows_N].cpu(), draws.log_evidence_N[rows_N].cpu()
    )

"""The figures of a report, each the mean over prompts with one a prompt inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..estimates import by_prompt, combine, mean, worst
from ..rows_of_prompts import rows_of_prompts, split_rows
from ..target import Target
from ..types import Completions, Draws, Estimate
from . import divergences
from .bounds import log_z_upper
from .diversity import distinct_n, self_bleu, unique_fraction
from .mixture import Mixture, Stratum
from .perplexity import perplexity
from .quantiles import QUANTILES, quantile
from .wasted import Wasted

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


def figures_of(draws: Draws, mixtures: Sequence[Mixture], waste: Wasted) -> dict[str, Estimate]:
    """All of `FIGURES`. `draws` are the policy's own, `mixtures` one a prompt."""
    num_prompts = len(mixtures)
    texts = [of_prompt(draws, at) for at in range(num_prompts)]
    completions = draws.completions

    def mean_over_draws(values_N: Tensor) -> Estimate:
        return by_prompt(num_prompts, lambda i: mean(values_N[rows(draws, i)]), "unbiased")

    figures = {
        "log_z": combine([m.log_z() for m in mixtures], "lower_bound"),
        "elbo": mean_over_draws(draws.log_weight),
        "eubo": combine([divergences.eubo(m) for m in mixtures], "consistent"),
        "kl_to_target": combine([m.kl_to_target() for m in mixtures], "consistent"),
        "kl_from_target": combine([divergences.kl_from_target(m) for m in mixtures], "consistent"),
        "tv": combine([divergences.total_variation(m) for m in mixtures], "consistent"),
        "js": combine([divergences.jensen_shannon(m) for m in mixtures], "consistent"),
        "wasted_nats": waste.nats,
        "effective_beta": waste.beta,
        "kl_to_prior": mean_over_draws(draws.log_proposal_N - draws.log_prior_N),
        "entropy": mean_over_draws(-draws.log_proposal_N),
        "target_entropy": combine([divergences.target_entropy(m) for m in mixtures], "consistent"),
        "mean_reward": mean_over_draws(draws.reward_N),
    }
    for name, level in QUANTILES.items():
        figures[name] = combine(
            [quantile(draws.reward_N[rows(draws, i)], level) for i in range(num_prompts)],
            "consistent",
        )
    return {
        **figures,
        "ess": combine([m.ess() for m in mixtures], "consistent"),
        "pareto_k": worst([m.pareto_k() for m in mixtures]),
        "perplexity": by_prompt(
            num_prompts,
            lambda i: perplexity(draws.log_prior_N[rows(draws, i)], texts[i].lengths_N),
            "consistent",
        ),
        "truncated": mean_over_draws(completions.truncated_N.double()),
        "distinct_2": combine([distinct_n(each, 2) for each in texts], "heuristic"),
        "unique_fraction": combine([unique_fraction(each) for each in texts], "heuristic"),
        "self_bleu": combine([self_bleu(each) for each in texts], "heuristic"),
    }


def bounded(
    target: Target, mixtures: Sequence[Mixture], posterior: Draws, log_pi_N: Tensor
) -> dict[str, Estimate]:
    """What exact draws of the target say, in place of weighted ones."""
    position_N = target.prompt_positions(posterior.completions)
    of_prompts = split_rows(position_N, len(mixtures))
    strata = [stratum(posterior, log_pi_N, each) for each in of_prompts]
    eubo = [mean(each.log_target_n - each.log_pi_n) for each in strata]
    of_weights = [m.log_z() for m in mixtures]
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
    upper = [log_z_upper(m, each) for m, each in zip(mixtures, strata, strict=True)]
    return {
        "eubo": combine(eubo, "unbiased"),
        "kl_from_target": combine(kl, "consistent"),
        "target_entropy": combine(entropy, "consistent"),
        "log_z_upper": combine(upper, "upper_bound"),
    }


def rows(draws: Draws, index: int) -> Tensor:
    """Which draws are of the prompt at `index`; their positions. Found for all prompts at once."""
    return rows_of_prompts(draws.completions)[index]


def of_prompt(draws: Draws, index: int) -> Completions:
    return draws.completions.select(rows(draws, index))


def stratum(draws: Draws, log_pi_N: Tensor, rows_N: Tensor) -> Stratum:
    """Some of the draws, with their log-probs under the policy, for a `Mixture`."""
    return Stratum(
        log_pi_N[rows_N].cpu(), draws.log_prior_N[rows_N].cpu(), draws.log_evidence_N[rows_N].cpu()
    )

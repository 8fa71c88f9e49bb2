"""A sample of a target's prompts in place of all, and how wide errors are then.

Of P prompts m are drawn without replacement. A mean over the m has the error of the draws, s_in,
and that of the choice of prompts:

    se^2 = (1 - m/P) s_between^2 + (m/P) s_in^2,

s_between the spread of the prompts' own values over sqrt(m), which contains s_in (two-stage
sampling; Cochran 1977, "Sampling techniques", 10.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from posteriori.core.target import Target
from posteriori.core.types import Draws, Estimate, Finding
from posteriori.data.given_numbers import count


def sampled_prompts(target: Target, max_prompts: int | None, seed: int) -> Target:
    """The target over at most `max_prompts` of its prompts, drawn from `seed`; itself where it has
    no more, or for None. Raises `ConfigError` below 1."""
    if max_prompts is not None:
        count(max_prompts, "max_prompts")
    if max_prompts is None or len(target.prompts) <= max_prompts:
        return target
    return target.sampled(max_prompts, seed)


def draws_for(some: Target, target: Target, draws: Draws | None) -> Draws | None:
    """Those of `draws` that are for the prompts of `some`, a sample of the prompts of `target`."""
    if draws is None or some is target or len(draws.completions.prompt_set) == len(some.prompts):
        return draws
    at_N = target.prompt_positions(draws.completions)
    place = torch.tensor(some.rows_of_whole, device=at_N.device)
    kept = draws.select(torch.isin(at_N, place).nonzero()[:, 0])
    at_n = target.prompt_positions(kept.completions)
    ids_of = dict(zip(at_n.tolist(), kept.completions.prompt_index_N.tolist(), strict=True))
    ids = tuple(draws.completions.prompt_ids[ids_of[at]] for at in place.tolist() if at in ids_of)
    completions = replace(
        kept.completions,
        prompt_set=some.prompts,
        prompt_ids=ids,
        prompt_index_N=torch.searchsorted(place, at_n),
    )
    return replace(kept, completions=completions, log_z=None)


def of_a_sample(estimate: Estimate, share: float) -> Estimate:
    """The estimate for all prompts, of which those at hand are a random `share`."""
    between = estimate.standard_error_new_prompts
    if between is None or share >= 1 or not math.isfinite(estimate.standard_error):
        return estimate
    error = math.sqrt((1 - share) * between**2 + share * estimate.standard_error**2)
    return replace(estimate, standard_error=error)


def of_all_prompts(figures: Mapping[str, Estimate], share: float) -> dict[str, Estimate]:
    return {name: of_a_sample(each, share) for name, each in figures.items()}


def sampled_finding(some: Target, target: Target) -> tuple[Finding, ...]:
    """What is to be said where the prompts at hand are a part of them."""
    if some is target:
        return ()
    return (
        Finding(
            "info",
            "prompts_sampled",
            f"{len(some.prompts):,} of the {len(target.prompts):,} prompts were drawn and judged; "
            "standard errors contain the choice of prompts.",
            "Raise max_prompts for more of them.",
        ),
    )

"""`frontier`: before any training, the best reward that each nat of KL can buy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from posteriori.core.draw import draw
from posteriori.core.elsewhere import served, standing_for
from posteriori.core.hooks import DrawsElsewhere
from posteriori.core.processes.ray_actors import Ray, spread
from posteriori.core.processes.together import on_every_process
from posteriori.core.reliability import most_evidence
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.run.default_progress import with_progress
from posteriori.core.run.out_of_memory import explained
from posteriori.core.run.progress import Progress
from posteriori.core.seeds import derive, generator
from posteriori.core.settings.training import MAX_PROMPTS
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count, positive
from posteriori.diagnostics.prompt_sample import sampled_finding, sampled_prompts
from posteriori.diagnostics.tilting import Stage, beta_of, proportional
from posteriori.errors import ConfigError
from posteriori.runs.target_fingerprint import digest
from posteriori.runs.target_journal import keeping
from posteriori.samplers.sample import sample

from .curve import Frontier, end_of

FEWEST = 100
"""Draws per prompt below which there is no frontier."""

_FIRST_STRIDE, _STRIDE = 2.5, 2.0
"""Annealed draws are of the posterior so many times as far as where the curve ends without them,
by draws of the prior and by annealed ones: the draws on both sides have to reach the middle. Where
they cannot be trusted there, the next ones go half as far, on the scale of its logarithm."""

_REPLICATES = 32


@named_arguments
@on_every_process
@with_progress("frontier")
@explained("drawing for the frontier", "set a lower num_samples, max_new_tokens or memory_gib")
def frontier(
    target: Target,
    num_samples: int = 2000,
    seed: int = 0,
    *,
    stages: int = 2,
    strongest: float = 10.0,
    max_prompts: int | None = MAX_PROMPTS,
    enough: Callable[[Frontier], bool] | None = None,
    on_progress: Progress | None = None,
    journal: Path | str | None = None,
    resume: bool = False,
    ray: Ray = None,
    sampler: DrawsElsewhere | None = None,
) -> Frontier:
    """Before any training: the best reward that each nat of KL can buy.

        log Z(lambda) = log E_prior[exp(lambda r)],   lambda = 1 / beta,
        reward = d log Z / d lambda,   KL = lambda reward - log Z

    Draws of the prior are weighted for every beta at once. Where a prompt's weights cannot be
    trusted (Pareto k-hat, or fewer than 100 effective draws), annealed draws of the posterior at
    that place carry the curve on. log Z is a lower bound in expectation; KL and reward are
    consistent, with delta-method standard errors (Korbak et al. 2022, arXiv 2205.11275; Owen 2013,
    "Monte Carlo theory, methods and examples", chapter 9).

    Args:
        target: the target.
        num_samples: draws per prompt of the prior, and of each annealed stage; at least 100.
        seed: of the draws.
        stages: how often annealed draws may carry the curve on.
        strongest: the curve ends where beta is so many times smaller than the target's own.
        max_prompts: of more prompts, so many are drawn from the seed (None: all). Standard errors
            then contain that choice.
        enough: says of the curve so far whether it goes far enough.
        on_progress: counts passes over the prior's draws, and begins again with each stage.
        journal: a folder that keeps what is finished until all is.
        resume: go on from the journal of a run that was stopped, and end with the same bits.
        ray: how many actors of Ray share the work (`RayConfig`, `RayActors`); None: this process
            does it.
        sampler: a `posteriori.Engine` that makes the prior's draws, which are weighed by prior/q
            then; annealed draws are the model's own, and there are no points of best-of-n.

    Returns:
        A `Frontier`: its points, and `at_beta`, `at_kl`, `at_reward`.

    Raises:
        ConfigError: below 100 draws, or for settings out of range.
        EvidenceError: where the evidence fails.

    Example:
        >>> curve = po.frontier(target, num_samples=500, stages=0, seed=0)
        >>> curve.at_kl(0.2).reward.value > curve.at_kl(0.1).reward.value
        True
    """
    _check_number(num_samples)
    if sampler is not None and not isinstance(sampler, DrawsElsewhere):
        raise ConfigError(
            f"sampler is a {type(sampler).__name__}, and what draws for the prior is an engine",
            where="frontier",
            hint="write sampler=posteriori.Engine(target.prior, ...)",
        )
    if positive(strongest) is None or stages < 0:
        raise ConfigError("strongest must be a positive number, and stages not negative")

    def about() -> dict[str, Any]:
        numbers = {"num_samples": num_samples, "seed": seed, "stages": stages}
        engine = {} if sampler is None else {"engine": digest(sampler)}
        return {"the work": "frontier", **numbers, "strongest": strongest, **engine}

    part = sampled_prompts(target, max_prompts, seed)
    share = len(part.prompts) / len(target.prompts)
    with keeping(part, journal, about, resume=resume), spread(ray, seed):
        curve = _frontier(
            part, num_samples, seed, stages, strongest, enough, on_progress, share, sampler
        )
    curve.findings += sampled_finding(part, target)
    return curve


def _frontier(
    target: Target,
    num_samples: int,
    seed: int,
    stages: int,
    strongest: float,
    enough: Callable[[Frontier], bool] | None,
    on_progress: Progress | None,
    share: float,
    sampler: DrawsElsewhere | None,
) -> Frontier:
    stream = generator(seed, "frontier")
    drawing = target.prior if sampler is None else served(standing_for(sampler, target.prior).lm)
    pool = draw(target, drawing, num_samples, stream, on_progress=on_progress)
    found, cost = [_stage(target, pool, 0.0, weighed=sampler is not None)], pool.cost
    stride, t0 = _FIRST_STRIDE, 0.0
    for number in range(stages):
        end, _ = end_of(found, strongest)
        if end < t0:
            # So far at once is too far for so many draws.
            stride = math.sqrt(stride)
        elif t0:
            stride = min(stride, _STRIDE)
        if not 0 < end < strongest:
            break
        if enough is not None and enough(Frontier(target, found, pool, strongest, cost, share)):
            break
        t0 = min(stride * end, strongest)
        there, seeded = target.tempered(t0), derive(seed, "frontier", number)
        drawn = sample(
            there,
            "annealed",
            num_samples,
            seed=seeded,
            replicates=_REPLICATES,
            on_progress=on_progress,
        )
        cost += drawn.cost
        # Weighted for the tempered target; the evidence itself is what tilts them further.
        whole = replace(drawn, log_evidence_N=drawn.log_evidence_N / t0)
        found.append(_stage(target, replace(whole, log_weight_N=drawn.log_weight), t0))
    return Frontier(target, found, pool, strongest, cost, share)


def frontier_of(target: Target, pool: Draws, *, strongest: float = 10.0) -> Frontier:
    """The frontier by draws of the prior that are there already; none are made to carry it on.

    As `frontier` with `stages=0`, for the draws behind an evaluation of the prior, of which no
    prompt may have fewer than 100 (`ConfigError`).
    """
    per_prompt = pool.completions.prompt_index_N.bincount(
        minlength=len(pool.completions.prompt_set)
    )
    _check_number(int(per_prompt.min()))
    return Frontier(target, [_stage(target, pool, 0.0)], pool, strongest, pool.cost)


def _check_number(num_samples: int) -> None:
    hint = "of fewer it is not known whether their weights can be trusted"
    count(num_samples, "num_samples", FEWEST, hint=hint)


def _stage(target: Target, draws: Draws, t0: float, *, weighed: bool = False) -> list[Stage]:
    # By place and not by text: a prompt may be there twice.
    rows = rows_of_prompts(draws.completions)
    evidence = [draws.log_evidence_N[each].cpu() for each in rows]
    most = most_evidence(evidence, target.max_log_evidence)
    unit = beta_of(target)
    unit = unit if proportional(draws, unit) else 0.0
    stated = target.max_log_evidence
    return [
        Stage(draws, each, t0, bound, unit, stated=stated, weighed=weighed)
        for each, bound in zip(rows, most, strict=True)
    ]

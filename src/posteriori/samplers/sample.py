"""`sample`: draws of the target without training, by any sampler."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from posteriori.core.elsewhere import served
from posteriori.core.processes.ray_actors import Ray, spread
from posteriori.core.processes.together import on_every_process
from posteriori.core.protocols import LanguageModel
from posteriori.core.registry import language_model, make
from posteriori.core.run.default_progress import with_progress
from posteriori.core.run.out_of_memory import explained
from posteriori.core.same_outcomes import check_same_outcomes
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Draws, Guarantee
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count
from posteriori.errors import PosterioriError, SamplingStopped
from posteriori.runs.target_fingerprint import digest
from posteriori.runs.target_journal import keeping

from .base import Job, Progress, Sampler
from .weight_findings import findings_of_draws, with_error_of_lambda


@named_arguments
@on_every_process
@with_progress("sampling")
def sample(
    target: Target,
    sampler: str | Sampler = "importance",
    num_samples: int = 256,
    proposal: LanguageModel | None = None,
    seed: int = 0,
    *,
    on_progress: Progress | None = None,
    on_keep: Callable[[Draws], None] | None = None,
    journal: Path | str | None = None,
    resume: bool = False,
    ray: Ray = None,
    config: Strict | None = None,
    **settings: Any,
) -> Draws:
    """Draws of the target without training, by any sampler.

        y ~ p*(y|c) = prior(y|c) e(c, y) / Z(c), as the sampler's guarantee has it

    Reproducible from `seed`. What the draws are worth is in the result: `guarantee`, `log_weight`,
    `log_z`, `findings` in words, and `cost`.

    Args:
        target: the target.
        sampler: a name (`posteriori ls samplers`), or a `Sampler`.
        num_samples: draws per prompt.
        proposal: any language model over the same tokens; default: the prior. A policy that `fit`
            has brought nearer to the target makes draws cheaper.
        seed: of the draws.
        on_progress: counts what is done.
        on_keep: sees finished draws on the way, where the sampler finishes some before the others.
        journal: a folder that keeps what is finished until all is; to be removed when the draws are
            kept elsewhere.
        resume: go on from the journal of a run that was stopped, and end with the same bits.
        ray: how many actors of Ray share the work (`RayConfig`, `RayActors`); None: this process
            does it.
        config: the sampler's settings, as one object: `posteriori.SMCConfig(replicates=8)`.
        settings: or its fields, as keywords.

    Returns:
        `Draws`, prompt by prompt.

    Raises:
        ConfigError: for a wrong setting.
        EvidenceError: where the evidence fails.
        MemoryLimitError: where memory runs out.
        CheckpointError: for a journal of other settings or another target.
        SamplingStopped: for a run that is interrupted or fails half-way; it carries the draws that
            were finished.

    Example:
        >>> draws = po.sample(target, "smc", num_samples=100, seed=0)
        >>> off = draws.log_z.value - po.exact(target).log_z.mean()
        >>> bool(abs(off) < 5 * draws.log_z.standard_error)
        True
    """
    num_samples = count(num_samples, "num_samples")
    if proposal is not None:
        drawing = language_model(proposal, "proposal", target.prior)
        check_same_outcomes(target.prior, drawing, target.prompts, "proposal")
        # By an engine: the law that really draws, which it scores too.
        proposal = served(drawing)
    made = make("sampler", sampler, settings, "settings", config)
    job = Job(target, proposal or target.prior, num_samples, seed, on_progress, on_keep=on_keep)

    def about() -> dict[str, Any]:
        return {
            "the work": f"sample by {made.name}",
            "the sampler": digest(type(made)),
            "its settings": digest(made.settings),
            "num_samples": num_samples,
            "seed": seed,
            "proposal": digest(None if job.proposal is target.prior else job.proposal),
        }

    try:
        with (
            keeping(target, journal, about, resume=resume),
            spread(ray, seed),
            explained("sampling", "set a lower num_samples, max_new_tokens or memory_gib"),
        ):
            draws = made.run(job)
    except (PosterioriError, KeyboardInterrupt) as error:
        if not job.kept:
            raise
        kept = _finished(Draws.concat(job.kept), made, job)
        raise SamplingStopped(
            f"'{made.name}' stopped after {len(kept)} draws: {error or 'interrupted'}",
            hint="the finished draws are in this error's `draws`",
            draws=kept,
        ) from error
    return _finished(draws, made, job)


def _finished(draws: Draws, sampler: Sampler, job: Job) -> Draws:
    """Prompt by prompt, with the guarantee, the findings and the whole time it took.

    A run may promise less than its algorithm can, by its settings, and never more; and what it has
    already said of its weights is not said again.
    """
    order = torch.argsort(draws.completions.prompt_index_N, stable=True)
    draws = replace(
        draws.select(order),
        guarantee=max(draws.guarantee or sampler.guarantee, sampler.guarantee, key=_WEAKER.index),
        cost=replace(draws.cost, seconds=time.perf_counter() - job.started),
    )
    draws = replace(draws, log_z=with_error_of_lambda(job.target, draws))
    said = {finding.name for finding in draws.findings}
    found = (*findings_of_draws(draws, job.target), *job.target.findings)
    more = [finding for finding in found if finding.name not in said]
    return replace(draws, findings=(*draws.findings, *more))


_WEAKER = get_args(Guarantee)
"""From the strongest to the weakest."""

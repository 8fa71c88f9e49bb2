"""What the samplers by Markov chains share: where chains start, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field

from posteriori.core import reliability
from posteriori.core.draw import draw
from posteriori.core.numerics import log_mean_exp
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.settings.strict import Strict
from posteriori.core.types import Cost, Draws, Estimate, Finding
from posteriori.errors import SamplingError
from posteriori.samplers.base import Job

from .mixing import Trace, findings


class ChainSettings(Strict):
    """Settings of all chains.

    Chains start from draws of the proposal that have evidence.

    Args:
        chains: chains per prompt, and never more than draws.
        burn_in: steps of each chain before its first draw.
        thin: every `thin`-th step after them is a draw.
        start_budget: draws of the proposal per prompt that are made at most to start the chains.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    chains: int = Field(default=16, ge=1)
    burn_in: int = Field(default=100, ge=0)
    thin: int = Field(default=10, ge=1)
    start_budget: int = Field(default=20_000, ge=1)


def start(job: Job, chains: int, budget: int) -> Draws:
    """`chains` draws of the proposal with evidence per prompt, prompt by prompt.

    Drawn in rounds, each for the prompts that still lack some. Where the budget ends with fewer
    than `chains`, those found are shared out. Raises `SamplingError` where there are none.
    """
    num_prompts = len(job.target.prompts)
    lacking = list(range(num_prompts))
    found: list[list[Draws]] = [[] for _ in lacking]
    cost = Cost()
    drawn, size, turn = 0, min(chains, budget), 0
    while lacking and drawn < budget:
        size = min(size, budget - drawn)
        generator = job.generator("start", turn)
        prompts = [job.target.prompts[at] for at in lacking]
        pool = draw(job.target, job.proposal, size, generator, prompts)
        cost = cost + pool.cost
        for row, at in enumerate(lacking):
            mine = pool.select(slice(row * size, (row + 1) * size))
            found[at].append(mine.select(~mine.log_weight.isneginf()))
        drawn, size, turn = drawn + size, 2 * size, turn + 1
        lacking = [at for at in lacking if sum(map(len, found[at])) < chains]
    parts: list[Draws] = []
    for at, mine in enumerate(found):
        number = sum(map(len, mine))
        if number == 0:
            raise SamplingError(
                f"none of {drawn} draws of the proposal has any evidence for the prompt "
                f"{str(job.target.prompts[at])[:60]!r}, so no chain can start",
                hint="raise start_budget, or draw from a proposal that is nearer to the target",
            )
        whole = Draws.concat(mine)
        parts.append(whole.select(torch.arange(chains, device=whole.log_prior_N.device) % number))
    # All prompts come first, in the target's order, so that positions in it stay what they are.
    return replace(Draws.concat(parts), cost=cost)


def draws_of(states: Draws, chains: int, take: int) -> Draws:
    """The states of the first `take` chains of each prompt as draws: all weigh the same."""
    chain_N = torch.arange(len(states), device=states.log_prior_N.device)
    chosen = chain_N[chain_N % chains < take]
    picked = states.select(chosen)
    return replace(picked, log_weight_N=torch.zeros_like(picked.log_prior_N), group_N=chosen)


def finished(
    job: Job,
    trace: Trace,
    chains: int,
    log_z: Estimate | None = None,
    found: Sequence[Finding] = (),
) -> Draws:
    """All that was kept, with the figures of the chains and what else was `found`."""
    figures = trace.figures()
    draws = Draws.concat(job.kept)
    proposed = chains * len(trace.values)
    return replace(
        draws,
        log_z=log_z,
        figures=figures,
        findings=(
            *findings(figures, chains, job.num_samples),
            *_out_of_reach(job, draws, proposed),
            *found,
        ),
    )


def _out_of_reach(job: Job, draws: Draws, proposed: int) -> list[Finding]:
    """Evidence far above all that chains have been at, which their proposals may have missed.

    With Z about 1 / E_p*[1/e] over where they have been, what so many proposals have not shown may
    hold more than a fifth of the target (`core.reliability.missed`).
    """
    evidence = [draws.log_evidence_N[rows].cpu() for rows in rows_of_prompts(draws.completions)]
    most = reliability.most_evidence(evidence, job.target.max_log_evidence)
    far = 0
    for log_e_n, bound in zip(evidence, most, strict=True):
        if len(log_e_n) == 0 or not reliability.beyond(log_e_n, bound):
            continue
        log_z = -float(log_mean_exp(-log_e_n))
        far += reliability.missed(log_z, bound, proposed) > reliability.LARGE_ERROR
    if not far:
        return []
    return [
        Finding(
            "warn",
            "chains_may_have_missed",
            f"For {far} of {len(evidence)} prompts no chain has been near the most evidence there "
            f"may be, which {proposed} proposals can have missed: most of the target may be there.",
            "Raise num_samples or burn_in, or use a proposal that is nearer to the target.",
        )
    ]

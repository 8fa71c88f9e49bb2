"""Streams of accepted draws: a proposal's draws, each kept with a probability of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posteriori.core.draw import draw
from posteriori.core.occurrence import Prompt
from posteriori.core.tensors import ints
from posteriori.core.types import Draws, Finding
from posteriori.samplers.base import Job

_LEAST, _MOST = 16, 256
"""Draws per prompt in one round."""


Source = Callable[[int, int, Sequence[Prompt]], Draws]
"""Draws of the proposal: so many per prompt, how many have been made before, and the prompts."""


@dataclass(frozen=True)
class Accepted:
    """The draws that were kept, of weight 1 unless `keep` says another; per prompt, how many were
    accepted of how many that were tried; and what there is to say of it.

    A prompt's trials end with its `enough`-th acceptance, or with the budget.
    """

    draws: Draws
    accepted_P: Tensor
    tried_P: Tensor
    enough: int
    findings: tuple[Finding, ...]

    def log_rate(self, at: int) -> tuple[float, float]:
        """log p-hat of a prompt's probability p of acceptance, and its standard error.

            p-hat = (enough - 1) / (tried - 1)   where the trials ended with the last acceptance
                  = accepted / tried             where they ended with the budget

        p-hat is unbiased for p, though the trials stop at an acceptance (the plain ratio is above p
        in expectation then): Girshick, Mosteller and Savage 1946, for inverse sampling
        that is cut off. So E log p-hat <= log p. The standard error is that of p-hat relative to it
        (delta method), at (accepted + 1/2) / (tried + 1), so that it is never 0: that every draw so
        far was accepted does not show that all will be.
        """
        accepted, tried = int(self.accepted_P[at]), int(self.tried_P[at])
        if accepted == 0:
            return -math.inf, math.inf
        if accepted >= self.enough:
            value = math.log((self.enough - 1) / (tried - 1))
        else:
            value = math.log(accepted / tried)
        near = (accepted + 0.5) / (tried + 1)
        return value, math.sqrt((1 - near) / (near * tried))


def equal(draws: Draws) -> Draws:
    """The same draws, all of weight 1."""
    return replace(draws, log_weight_N=torch.zeros_like(draws.log_prior_N))


def budget_of(max_draws: int | None, wanted: int) -> int:
    """Draws of the proposal per prompt, by default a hundred per draw that is asked for, and at
    least 10,000."""
    return max_draws or max(10_000, 100 * wanted)


def accepted_draws(
    job: Job,
    name: str,
    log_accept: Callable[[Draws], Tensor],
    max_draws: int | None,
    source: Source | None = None,
    keep: Callable[[Draws], Draws] = equal,
) -> Accepted:
    """y ~ q, kept with probability exp(log_accept(y)), until each prompt has what the job asks for.

    A prompt's draws and coins are independent of each other, and it keeps its first accepted ones,
    so they are independent draws of the law q(y) exp(log_accept(y)), normalised, whatever the
    rounds were and wherever they ended: neither depends on which outcomes were accepted. At least
    two acceptances are waited for, because one acceptance does not determine the rate. `max_draws`
    per prompt is the budget (`budget_of`). `source` draws y, independently of each other, the job's
    proposal by itself if it is left out, and `keep` gives what is accepted its weight.
    """
    prompts, wanted = job.target.prompts, job.num_samples
    enough = max(2, wanted)
    budget = budget_of(max_draws, wanted)
    accepted_P = torch.zeros(len(prompts), dtype=torch.long)
    tried_P = torch.zeros(len(prompts), dtype=torch.long)
    tried = 0
    while tried < budget and bool((accepted_P < enough).any()):
        # Every prompt that is still here has been in every round.
        active = (accepted_P < enough).nonzero()[:, 0]
        # As many as the prompt that is nearest to its end is expected to need.
        need = float(((enough - accepted_P[active]) * (tried + 1) / (accepted_P[active] + 1)).min())
        size = min(max(math.ceil(need), _LEAST), _MOST, budget - tried)
        asked = [prompts[at] for at in ints(active)]
        if source is None:
            drawn = draw(job.target, job.proposal, size, job.generator(name, tried), asked)
        else:
            drawn = source(size, tried, asked)
        coin_N = torch.rand(
            len(drawn), dtype=torch.float64, generator=job.generator(name, "accept", tried)
        )
        yes_AS = (coin_N.log() < log_accept(drawn).cpu()).view(len(active), size)
        rank_AS = accepted_P[active, None] + yes_AS.cumsum(1)
        job.keep(keep(drawn.select((yes_AS & (rank_AS <= wanted)).flatten())))
        # The trial that brought the last acceptance; a draw past it counts for nothing.
        after_AS = (rank_AS >= enough).cumsum(1)
        tried_P[active] = tried + size - (after_AS - 1).clamp(min=0).amax(1)
        accepted_P[active] = rank_AS[:, -1].clamp(max=enough)
        tried += size
        job.progress(int(accepted_P.clamp(max=wanted).sum()), wanted * len(prompts))
    short = _fell_short(job, accepted_P, budget)
    return Accepted(Draws.concat(job.kept), accepted_P, tried_P, enough, short)


def _fell_short(job: Job, accepted_P: Tensor, budget: int) -> tuple[Finding, ...]:
    short = (accepted_P < job.num_samples).nonzero()[:, 0]
    if not len(short):
        return ()
    worst = int(accepted_P.argmin())
    fewest = int(accepted_P[worst])
    return (
        Finding(
            "warn" if fewest else "stop",
            "budget_ended",
            f"{len(short)} of {len(accepted_P)} prompts have fewer than the {job.num_samples} "
            f"draws asked for: {fewest} of {budget} were accepted for "
            f"{str(job.target.prompts[worst])[:60]!r}.",
            "Raise max_draws, take a proposal that is nearer to the target, or another sampler "
            "(smc, annealed).",
        ),
    )

"""The ladder of temperatures of an annealed run: found by a pilot, then frozen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from posteriori.core.numerics import ess
from posteriori.core.protocols import LanguageModel
from posteriori.core.run.out_of_memory import explained
from posteriori.core.seeds import generator as stream
from posteriori.core.target import Target
from posteriori.core.types import Cost
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, SamplingError
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves
from posteriori.samplers.smc.resampling import ancestors

_MAX_RUNGS = 1000


@named_arguments
@explained("sampling", "set a lower num_samples, max_new_tokens or memory_gib")
def adapt_ladder(
    target: Target,
    *,
    proposal: LanguageModel | None = None,
    num_particles: int = 256,
    moves: int = 2,
    rung_ess: float = 0.5,
    seed: int = 0,
) -> tuple[float, ...]:
    """Powers of the evidence from the proposal to the target, found by a run of their own.

        0 = t_0 < t_1 < .. < t_K = 1, where each step leaves `rung_ess` of the particles effective

    One ladder for all prompts: the step is the smallest that any prompt asks for. Give it to both
    `posteriori.sample(target, "annealed", ladder=..)` and `reverse_annealed_log_z`: bounds from
    both sides of log Z along one path.

    Args:
        target: the target.
        proposal: where the path begins; default: the prior.
        num_particles: per prompt.
        moves: suffix moves per rung.
        rung_ess: the share of effective particles that a rung leaves, between 0 and 1.
        seed: of the run.

    Returns:
        The powers, as a tuple of floats from 0 to 1.

    Raises:
        SamplingError: for a path of more than 1000 rungs.

    Example:
        >>> ladder = po.adapt_ladder(target, seed=0)
        >>> ladder[0], ladder[-1]
        (0.0, 1.0)
    """
    kernel = SuffixMoves(target, proposal or target.prior)
    return pilot(kernel, num_particles, moves, rung_ess, stream(seed, "adapt_ladder"))[0]


def pilot(
    kernel: SuffixMoves, num: int, moves: int, rung_ess: float, generator: torch.Generator
) -> tuple[tuple[float, ...], Cost]:
    """The ladder, from `num` particles per prompt that are resampled at each rung; and the cost."""
    states = kernel.start(num, generator)
    num_prompts = len(kernel.target.prompts)
    first_P1 = num * torch.arange(num_prompts, device=states.log_prior_N.device)[:, None]
    size_P = torch.full_like(first_P1[:, 0], num)
    ladder = [0.0]
    while True:
        log_w_PN = kernel.log_weight(states).view(num_prompts, num)
        step = next_step(log_w_PN, 1.0 - ladder[-1], rung_ess)
        if step >= 1.0 - ladder[-1]:
            return (*ladder, 1.0), states.cost
        ladder.append(ladder[-1] + step)
        if len(ladder) > _MAX_RUNGS:
            raise SamplingError(
                f"the path needs more than {_MAX_RUNGS} rungs: it has come to t = {ladder[-1]:.2g}",
                hint="raise beta, lower rung_ess, or use a proposal that is nearer to the target",
            )
        uniform_P1 = torch.rand(num_prompts, 1, dtype=torch.float64, generator=generator)
        dead_P1 = log_w_PN.isneginf().all(1, keepdim=True)
        chosen_PN = ancestors(
            "systematic",
            (step * log_w_PN).masked_fill(dead_P1, 0.0),
            size_P,
            uniform_P1.to(log_w_PN.device),
        )
        states = states.select((first_P1 + chosen_PN).flatten())
        for _ in range(moves):
            states, _ = kernel.step(states, ladder[-1], generator)


def next_step(log_w_PN: Tensor, rest: float, rung_ess: float) -> float:
    """The largest step in (0, rest] that leaves each prompt's particles that effective.

    By bisection. Effective among those with any weight: what hard evidence rules out dies at any
    step. A prompt without such a particle has no say.
    """
    dead_PN = log_w_PN.isneginf()
    alive_P = (~dead_PN).sum(1)

    def enough(step: Tensor) -> Tensor:
        return (
            ess((step[:, None] * log_w_PN).masked_fill(dead_PN, -torch.inf)) >= rung_ess * alive_P
        )

    high_P = torch.full_like(log_w_PN[:, 0], rest)
    low_P = high_P.where(enough(high_P), 0.0)
    for _ in range(40):
        middle_P = 0.5 * (low_P + high_P)
        fits_P = enough(middle_P)
        low_P, high_P = middle_P.where(fits_P, low_P), high_P.where(fits_P, middle_P)
    return float(high_P.min())


def check_ladder(ladder: Sequence[float]) -> None:
    """Raise `ConfigError` unless it climbs from 0 to 1."""
    climbs = all(low < high for low, high in pairwise(ladder))
    if len(ladder) < 2 or ladder[0] != 0.0 or ladder[-1] != 1.0 or not climbs:
        raise ConfigError(
            f"ladder={tuple(ladder)} does not climb from 0 to 1",
            hint="begin with 0.0, end with 1.0, and rise in between",
        )

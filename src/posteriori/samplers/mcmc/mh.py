"""Metropolis-Hastings with moves that redraw the end of a completion, or a block inside it."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from posteriori.core.journal.journal import once
from posteriori.core.types import Draws, Guarantee
from posteriori.samplers.base import Job, Sampler

from .block_moves import BlockMoves
from .chains import ChainSettings, draws_of, finished, start
from .mixing import Trace
from .suffix_moves import SuffixMoves, without_cost


class MHConfig(ChainSettings):
    """Settings of the sampler "mh", Metropolis-Hastings by new suffixes.

    Args:
        chains: chains per prompt, and never more than draws.
        burn_in: steps of each chain before its first draw.
        thin: every `thin`-th step after them is a draw.
        start_budget: draws of the proposal per prompt that are made at most to start the chains.
        block: tokens that every second step redraws in place of a suffix; None: no such steps.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.MHConfig(block=4).chains
        16
    """

    block: int | None = Field(default=None, ge=1)


class MH(Sampler[MHConfig]):
    """i ~ uniform {0 .. |y|-1},   y' = (y_1 .. y_i, fresh tokens ~ q(. | c, y_1 .. y_i)),

        accept with probability min(1, p~(y') q(y[i:]) |y| / (p~(y) q(y'[i:]) |y'|)),

    which for q = prior is min(1, (e(y') / e(y)) |y| / |y'|). |y| counts the EOS; the ratio of
    lengths makes up for the choice of i. With `block` = B every other move redraws B tokens inside
    the text and keeps what follows them (`BlockMoves`): for targets that judge a text's end, which
    new suffixes would have to find again. It costs a pass over the whole text.

    Asymptotic: p* is invariant, and the chains' law tends to it with their length (q must be able
    to draw whatever p~ can). Draws of a chain depend on each other: `group_N` is the chain. No
    estimate of log Z. `figures` has R-hat, effective draws and the acceptance rate. All chains of
    all prompts move in one batch. Raises `SamplingError` where no draw of q has any evidence.

    Metropolis et al. 1953, Hastings 1970; suffix moves as in QUEST (Faria et al. 2024, arXiv
    2406.00049), which leaves out |y| / |y'|. R-hat: Vehtari et al. 2021, arXiv 1903.08008.
    """

    name = "mh"
    guarantee: ClassVar[Guarantee] = "asymptotic"

    Settings = MHConfig

    def run(self, job: Job) -> Draws:
        chains = min(self.settings.chains, job.num_samples)
        burn_in, thin = self.settings.burn_in, self.settings.thin
        moves, block = SuffixMoves(job.target, job.proposal), self.settings.block
        inside = None if block is None else BlockMoves(moves, block)
        generator = job.generator("mh")
        states = start(job, chains, self.settings.start_budget)
        trace = Trace(len(job.target.prompts))
        steps = burn_in + thin * -(-job.num_samples // chains)
        left = job.num_samples

        def walk(
            states: Draws, first: int, after: int
        ) -> tuple[Draws, list[tuple[Tensor, Tensor]]]:
            """Steps `first` up to the one before `after`, and what the trace keeps of them."""
            kept: list[tuple[Tensor, Tensor]] = []
            for step in range(first, after):
                if inside is not None and step % 2 == 0:
                    states, accept_N = inside.step(states, generator)
                else:
                    states, accept_N = moves.step(states, 1.0, generator)
                if step > burn_in:
                    kept.append(trace.of(states, accept_N))
                job.progress(step, steps)
            return states, kept

        # The first piece is shorter, so that the others end with draws.
        firsts = [*range(1, burn_in % thin + 1, thin), *range(burn_in % thin + 1, steps + 1, thin)]
        for first, after in pairwise([*firsts, steps + 1]):
            states, kept = once(lambda s=states, f=first, e=after: walk(s, f, e), generator)
            trace.extend(kept)
            if after - 1 > burn_in:
                job.keep(draws_of(states, chains, left))
                states, left = without_cost(states), left - chains
        return finished(job, trace, chains)

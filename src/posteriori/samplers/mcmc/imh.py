"""Independent Metropolis-Hastings: every proposal is a fresh draw."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.draw import draw
from posteriori.core.types import Draws, Guarantee
from posteriori.samplers.base import Job, Sampler
from posteriori.samplers.weight_findings import log_z_of_pool

from .chains import ChainSettings, draws_of, finished, start
from .mixing import Trace
from .suffix_moves import without_cost

_ROUND = 256
"""Proposals a prompt between two reports of progress."""


class IMHConfig(ChainSettings):
    """Settings of the sampler "imh", independent Metropolis-Hastings.

    Chains start from draws of the proposal that have evidence.

    Args:
        chains: chains per prompt, and never more than draws.
        burn_in: steps of each chain before its first draw.
        thin: every `thin`-th step after them is a draw.
        start_budget: draws of the proposal per prompt that are made at most to start the chains.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.IMHConfig(thin=1).burn_in
        20
    """

    burn_in: int = Field(default=20, ge=0)
    thin: int = Field(default=5, ge=1)


class IMH(Sampler[IMHConfig]):
    """y' ~ q,   accept with probability min(1, w(y') / w(y)),   w = p~ / q.

    Asymptotic: p* is invariant, and TV(law after k steps, p*) <= (1 - Z / max w)^k. Draws of a
    chain depend on each other: `group_N` is the chain. The proposals do not: `log_z` is their
    importance estimate, unbiased for Z (the draws that chains start from are left out). `figures`
    has R-hat, effective draws and the acceptance rate. Raises `SamplingError` where no draw of q
    has any evidence.

    Proposals are drawn and scored ahead, in batches; the chains are then a scan over weights.
    Tierney 1994; the bound on TV is Mengersen and Tweedie 1996, theorem 2.1.
    """

    name = "imh"
    guarantee: ClassVar[Guarantee] = "asymptotic"

    Settings = IMHConfig

    def run(self, job: Job) -> Draws:
        chains = min(self.settings.chains, job.num_samples)
        burn_in, thin = self.settings.burn_in, self.settings.thin
        num_prompts = len(job.target.prompts)
        states = start(job, chains, self.settings.start_budget)
        trace = Trace(num_prompts)
        proposals: list[Draws] = []
        steps = burn_in + thin * -(-job.num_samples // chains)
        left, at_once = job.num_samples, max(1, _ROUND // chains)
        for first in range(0, steps, at_once):
            size = min(at_once, steps - first)
            proposed = draw(job.target, job.proposal, chains * size, job.generator("imh", first))
            log_w_NS = proposed.log_weight.view(-1, size)  # N: chains of all prompts
            proposals.append(_bare(proposed))
            uniform_NS = torch.rand(
                log_w_NS.shape, dtype=torch.float64, generator=job.generator("imh accept", first)
            ).to(log_w_NS.device)
            place_NS, accept_NS = scan(states.log_weight, log_w_NS, uniform_NS)
            pool = Draws.concat([states, proposed])
            for at in range(size):
                states = pool.select(place_NS[:, at])
                step = first + at + 1
                if step > burn_in:
                    trace.add(states, accept_NS[:, at])
                    if (step - burn_in) % thin == 0:
                        job.keep(draws_of(states, chains, left))
                        pool, left = without_cost(pool), left - chains
            states = pool.select(place_NS[:, -1])
            job.progress(first + size, steps)
        log_z, found = log_z_of_pool(job.target, Draws.concat(proposals))
        return finished(job, trace, chains, log_z, found)


def _bare(proposed: Draws) -> Draws:
    """Proposals without what is large and needed for no weight."""
    return replace(proposed, token_log_prior_NL=None)


def scan(log_w_N: Tensor, log_w_NS: Tensor, uniform_NS: Tensor) -> tuple[Tensor, Tensor]:
    """Where each chain stands after each step, and which proposals it took; [N, S].

    Places count the N present states first and then the proposals, chain by chain. A state of
    weight 0 is left at once.
    """
    num_chains, num_steps = log_w_NS.shape
    place_N = torch.arange(num_chains, device=log_w_N.device)
    places: list[Tensor] = []
    accepted: list[Tensor] = []
    for step in range(num_steps):
        gain_N = (log_w_NS[:, step] - log_w_N).masked_fill(log_w_N.isneginf(), torch.inf)
        accept_N = uniform_NS[:, step].log() < gain_N
        proposal_N = num_chains + num_steps * torch.arange(num_chains, device=log_w_N.device) + step
        place_N = proposal_N.where(accept_N, place_N)
        log_w_N = log_w_NS[:, step].where(accept_N, log_w_N)
        places.append(place_N)
        accepted.append(accept_N)
    return torch.stack(places, dim=1), torch.stack(accepted, dim=1)

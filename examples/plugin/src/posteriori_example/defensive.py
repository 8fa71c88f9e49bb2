"""Importance sampling by a mixture of proposal and prior: weights have a bound."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.types import Guarantee
from posteriori.samplers.base import Job
from posteriori.samplers.weight_findings import log_z_of_pool


class DefensiveConfig(po.Strict):
    """`share`: how much of the mixture is the prior."""

    share: float = Field(default=0.25, gt=0, lt=1)


class Defensive(po.Sampler[DefensiveConfig]):
    """y ~ m = (1 - share) q + share prior,  w = p~(y) / m(y) <= e(c, y) / share.

    Properly weighted: E[w f(y)] = sum_y p~(y) f(y) for every f, and with evidence of at most 1 no
    weight is above 1/share, whatever the proposal misses. (Hesterberg 1995.)
    """

    name = "defensive"
    guarantee: ClassVar[Guarantee] = "properly_weighted"
    Settings = DefensiveConfig

    def run(self, job: Job) -> po.Draws:
        share, generator = self.settings.share, job.generator("defensive")
        both = [
            draw(job.target, lm, job.num_samples, generator)
            for lm in (job.proposal, job.target.prior)
        ]
        of_prior = torch.rand(len(both[0]), generator=generator) < share
        rows = torch.arange(len(both[0])) + len(both[0]) * of_prior
        pool = po.Draws.concat(both).select(rows)
        log_q_N = job.proposal.log_prob(pool.completions).double().detach()
        log_m_N = torch.logaddexp(
            log_q_N + torch.tensor(1 - share).double().log(),
            pool.log_prior_N + torch.tensor(share).double().log(),
        )
        draws = replace(pool, log_proposal_N=log_m_N)
        job.keep(draws)
        log_z, _ = log_z_of_pool(job.target, draws, "lower_bound", weighted=True)
        return replace(draws, log_z=log_z)

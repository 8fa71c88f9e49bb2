"""Power sampling: the prior's own distribution, sharpened, by block Metropolis-Hastings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.draw import lm_tokens
from posteriori.core.estimates import combine, mean, worst
from posteriori.core.journal.journal import fold, once
from posteriori.core.settings.strict import Strict
from posteriori.core.tensors import floats, ints
from posteriori.core.types import Draws, Estimate, Finding, Guarantee
from posteriori.errors import SamplingError
from posteriori.samplers.base import Job, Sampler

from .suffix_moves import SuffixMoves, suffix_tokens

_ROUND = 256
"""Draws per prompt that are made together."""

_SURE = 4.0
"""Standard errors of a drift: passed by chains at rest with probability 6e-5 per prompt."""

_Stage = tuple[Draws | None, Tensor, list[Tensor]]
"""The chains so far; log prior half way through the moves; acceptance rates, one per move."""


class PowerConfig(Strict):
    """Settings of the sampler "power", which draws from the prior to a power.

    Args:
        alpha: the power, above 0; above 1 it sharpens the prior.
        block: tokens by which drafts grow between moves; None: a 16th of `max_new_tokens`.
        moves: moves per block.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.PowerConfig(alpha=2.0).moves
        10
    """

    alpha: float = Field(default=4.0, gt=0)
    block: int | None = Field(default=None, ge=1)
    moves: int = Field(default=10, ge=1)


class Power(Sampler[PowerConfig]):
    """p(y|c) proportional to prior(y|c)^alpha e(c, y), e = 1 for a target without evidence.

        stage k = 1, 2, ..:  unfinished y go on by a block of B tokens, drawn from q;
        then `moves` suffix moves on the prefix target prior(y)^alpha over outcomes of at most k B
        tokens: i ~ uniform {0 .. |y|-1}, redraw y[i:] ~ q, accept with probability
        min(1, prior(y')^alpha q(y[i:]) |y| / (prior(y)^alpha q(y'[i:]) |y'|)).

    q is the prior's tokens raised to alpha one by one (temperature 1/alpha), which is not p: it
    does not know what a token leads to. A proposal other than the prior is used in its place.
    Evidence enters at the last stage, where texts are whole: its target is p, and the ratio has
    e(y') / e(y).

    Asymptotic: each stage's kernel leaves the stage's target invariant, and the law of y tends to p
    as `moves` grows. Draws are independent chains, so they weigh the same and do not depend on each
    other. No estimate of log Z. About moves T^2 / (4 B) tokens per draw; `block` None is T / 16, as
    in the paper. A chain that ends on a text which the evidence rules out gives no draw, and the
    findings say so; `SamplingError` where all of a prompt's do. `figures` has the acceptance rate
    and `drift`: E[log prior(y)] at the end less half way through the last stage, which is zero for
    chains that have come to rest. It is a finding where it is four standard errors from it; where
    it is none, texts that q hardly ever draws can still be missing.

    Karan and Du 2025 (arXiv 2510.14901), algorithm 1, with |y| / |y'| for texts that end.
    """

    name = "power"
    guarantee: ClassVar[Guarantee] = "asymptotic"
    of_target: ClassVar[bool] = False

    Settings = PowerConfig

    def run(self, job: Job) -> Draws:
        num_prompts = len(job.target.prompts)
        rates_P = torch.zeros(num_prompts, dtype=torch.float64)
        gains: list[Tensor] = []
        for first in range(0, job.num_samples, _ROUND):
            size = min(_ROUND, job.num_samples - first)
            states, rate_P, gain_PN = once(
                lambda size=size, first=first: self._chains(
                    job, size, job.generator("power", first)
                )
            )
            gains.append(gain_PN)
            row_N = torch.arange(len(states), device=states.log_prior_N.device)
            draws = replace(
                states,
                log_weight_N=torch.zeros_like(states.log_prior_N),
                group_N=row_N + first * num_prompts,
            )
            job.keep(draws.select(~states.log_evidence_N.isneginf()))
            rates_P += size / job.num_samples * rate_P
            job.progress(first + size, job.num_samples)
        each = [Estimate(r, math.nan, "heuristic", job.num_samples) for r in floats(rates_P)]
        acceptance = replace(worst(each), value=float(rates_P.mean()))
        drift = combine([mean(gain_N) for gain_N in torch.cat(gains, dim=1)], "unbiased")
        draws = Draws.concat(job.kept)
        return replace(
            draws,
            figures={"acceptance": acceptance, "drift": drift},
            findings=(*_left_out(job, draws), *_drifting(drift)),
        )

    def _chains(
        self, job: Job, size: int, generator: torch.Generator
    ) -> tuple[Draws, Tensor, Tensor]:
        """`size` chains per prompt, from the first block to whole texts; the acceptance rates; and
        by how much log prior(y) grew over the second half of the last stage's moves."""
        target, length = job.target, job.target.max_new_tokens
        block = self.settings.block or math.ceil(length / 16)
        given = job.proposal is not target.prior
        q = job.proposal if given else target.prior.token_power(self.settings.alpha)

        def stage(so_far: _Stage, end: int) -> _Stage:
            states, half_way_N, rates = so_far
            moves = SuffixMoves(target, q, alpha=self.settings.alpha, with_evidence=end == length)
            if states is None:
                begun = q.sample(target.prompts, size, end, generator)
                states = moves.scored(begun, lm_tokens(begun))
            else:
                longer, tokens = extended(moves, states.completions, end, generator)
                before, states = states.cost, moves.scored(longer, tokens)
                states = replace(states, cost=before + states.cost)
            for move in range(self.settings.moves):
                if move == self.settings.moves // 2:
                    half_way_N = states.log_prior_N
                states, accept_N = moves.step(states, 1.0, generator)
                rate_P = accept_N.double().view(len(target.prompts), -1).mean(1).cpu()
                rates = [*rates, rate_P]
            return states, half_way_N, rates

        ends = [*range(block, length, block), length]
        nothing: _Stage = (None, torch.zeros(()), [])
        states, half_way_N, rates = fold(nothing, ends, stage, generator)
        assert states is not None, "there is at least one block"
        gain_PN = (states.log_prior_N - half_way_N).view(len(target.prompts), -1)
        return states, torch.stack(rates).mean(0), gain_PN.cpu()


def extended(
    moves: SuffixMoves, completions: Completions, end: int, generator: torch.Generator
) -> tuple[Completions, int]:
    """Texts that have not ended go on by draws of q up to `end` tokens; and the tokens run."""
    longer = replace(completions, max_new_tokens=end)
    open_N = ~longer.ended_N
    if not bool(open_N.any()):
        return longer, 0
    part = longer.select(open_N)
    drawn = moves.proposal.resample_suffix(part, part.lengths_N, generator)
    tokens = suffix_tokens(part, drawn, part.lengths_N)
    both = Completions.concat([longer, drawn])
    row_N = torch.arange(len(longer), device=open_N.device)
    row_N = row_N.masked_scatter(
        open_N, len(longer) + torch.arange(len(drawn), device=row_N.device)
    )
    return both.select(row_N), tokens


def _drifting(drift: Estimate) -> list[Finding]:
    """Chains whose log-prob still goes up or down: they are not at rest."""
    moving = [e for e in drift.per_prompt if abs(e.value) > _SURE * e.standard_error > 0]
    if not moving:
        return []
    most = max(moving, key=lambda e: abs(e.value))
    return [
        Finding(
            "warn",
            "chains_drift",
            f"Over the last half of the moves the mean log-prob of {len(moving)} prompts' chains "
            f"still went by up to {most.value:+.2g} nats: they are not at rest.",
            "Raise moves.",
        )
    ]


def _left_out(job: Job, draws: Draws) -> list[Finding]:
    """Chains that ended without evidence. Raises `SamplingError` for a prompt without any other."""
    asked = job.num_samples
    index_N = draws.completions.prompt_index_N
    counts = ints(index_N.bincount(minlength=len(job.target.prompts)))
    if 0 in counts:
        prompt = str(job.target.prompts[counts.index(0)])[:60]
        raise SamplingError(
            f"all {asked} chains for the prompt {prompt!r} ended where there is no evidence",
            hint="raise moves, or use smc, which sees the evidence earlier",
        )
    if sum(counts) == asked * len(counts):
        return []
    return [
        Finding(
            "warn",
            "chains_without_evidence",
            f"{asked * len(counts) - sum(counts)} of {asked * len(counts)} chains ended on texts "
            "that the evidence rules out, and gave no draw.",
            "Raise moves.",
        )
    ]

"""Annealed sampling: populations on a tempered path from the proposal to the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from posteriori.core.estimates import worst
from posteriori.core.journal.journal import fold, once
from posteriori.core.numerics import ess, log_mean_exp
from posteriori.core.settings.strict import Strict, as_tuple
from posteriori.core.tensors import floats
from posteriori.core.types import Cost, Draws, Estimate, Guarantee
from posteriori.samplers.base import Job, Sampler
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves
from posteriori.samplers.smc.resampling import ancestors
from posteriori.samplers.weight_findings import log_z_of_populations

from .ladder import check_ladder, pilot

_ROUND = 1024
"""Particles per prompt that are moved together."""

_State = tuple[Draws, Tensor, list[Tensor]]
"""The particles, their log-weights by population, and acceptance rates, one per move."""


class AnnealedConfig(Strict):
    """Settings of the sampler "annealed": its path and its particles.

    Args:
        replicates: independent populations per prompt; the standard error of log Z is over them.
        moves: suffix moves of each particle at each rung.
        ess_threshold: a population is resampled where fewer than this share of its particles is
            effective, between 0 and 1.
        ladder: the powers of the evidence, from 0 to 1; left out, a pilot run finds them.
        pilot_particles: particles per prompt of that run.
        rung_ess: the share of effective particles that one rung leaves, between 0 and 1.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.AnnealedConfig(replicates=8).moves
        2
    """

    replicates: int = Field(default=16, ge=1)
    moves: int = Field(default=2, ge=1)
    ess_threshold: float = Field(default=0.5, ge=0, le=1)
    ladder: Annotated[tuple[float, ...] | None, BeforeValidator(as_tuple)] = None
    pilot_particles: int = Field(default=256, ge=2)
    rung_ess: float = Field(default=0.5, gt=0, lt=1)


class Annealed(Sampler[AnnealedConfig]):
    """p_t(y) proportional to q(y) w(y)^t,  w = p~ / q,  0 = t_0 < t_1 < .. < t_K = 1;  y ~ q,  then

        for k = 1 .. K:   lw += (t_k - t_{k-1}) log w(y);   resample;   y ~ M_k(. | y),

    M_k being suffix moves that leave p_{t_k} invariant. With q = prior, w is the evidence.

    Properly weighted, and Z-hat = mean exp(lw) unbiased, because the ladder t is fixed before the
    first draw: a pilot run finds it, and its own draws are thrown away. So log Z-hat is below log Z
    in expectation; `reverse_annealed_log_z` gives the bound from above. Particles are resampled
    (systematically) within their population alone, when fewer than `ess_threshold` of them are
    effective; a population goes on with its Z-hat as the weight of each of its particles.
    Populations are independent: `group_N` is the population, and the standard error of `log_z` is
    over populations. `replicates` that do not divide `num_samples` run up to one particle more
    each, and draws left out at random make it up: they count in `log_z`. Tempering smooths rewards;
    what hard evidence rules out it rules out at once.

    Neal 2001 (annealed importance sampling); Del Moral, Doucet and Jasra 2006, section 3.3.2.3.
    """

    name = "annealed"
    guarantee: ClassVar[Guarantee] = "properly_weighted"

    Settings = AnnealedConfig

    def run(self, job: Job) -> Draws:
        settings = self.settings
        moves = SuffixMoves(job.target, job.proposal)
        ladder, cost = settings.ladder, Cost()
        if ladder is None:
            job.progress(0, 1)
            ladder, cost = once(
                lambda: pilot(
                    moves,
                    settings.pilot_particles,
                    settings.moves,
                    settings.rung_ess,
                    job.generator("annealed pilot"),
                )
            )
        check_ladder(ladder)
        num_prompts, replicates = len(job.target.prompts), settings.replicates
        each = -(-job.num_samples // replicates)
        at_once = max(1, _ROUND // each)
        rungs = len(ladder) - 1
        log_z_parts: list[Tensor] = []
        rates: list[Tensor] = []
        for first in range(0, replicates, at_once):
            size = min(at_once, replicates - first)

            def climb(
                first: int = first, size: int = size, ladder: Sequence[float] = ladder
            ) -> tuple[Draws, Tensor]:
                return anneal(
                    moves,
                    ladder,
                    moves.start(size * each, job.generator("annealed", first)),
                    each,
                    settings.moves,
                    settings.ess_threshold,
                    job.generator("annealed moves", first),
                    lambda rung: job.progress(rungs * first + size * rung, rungs * replicates),
                )

            draws, rate_P = once(climb)
            group_PG = torch.arange(size) + first + replicates * torch.arange(num_prompts)[:, None]
            group_N = group_PG.flatten().repeat_interleave(each).to(draws.log_prior_N.device)
            job.keep(replace(draws, group_N=group_N, cost=draws.cost + cost))
            cost = Cost()
            log_z_parts.append(log_mean_exp(draws.log_weight.view(num_prompts, size, each)))
            rates.append(size * rate_P)
        whole = Draws.concat(job.kept)
        log_z = log_z_of_populations(job.target, whole, torch.cat(log_z_parts, dim=1))
        draws = _thinned(whole, job)
        return replace(
            draws,
            log_z=log_z,
            figures=_figures(
                torch.stack(rates).sum(0) / replicates, len(ladder) - 1, each * replicates
            ),
        )


def anneal(
    moves: SuffixMoves,
    ladder: Sequence[float],
    states: Draws,
    each: int,
    moves_per_rung: int,
    ess_threshold: float,
    generator: torch.Generator,
    on_rung: Callable[[int], None] | None = None,
) -> tuple[Draws, Tensor]:
    """Populations of `each` neighbouring draws of q, taken up the ladder; and the acceptance rate a
    prompt. Their log-weights are such that the mean over a population is its Z-hat."""
    num_prompts = len(moves.target.prompts)

    def climb(state: _State, rung: int) -> _State:
        states, log_w_GK, accepted = state
        before, t = ladder[rung - 1], ladder[rung]
        log_w_GK = log_w_GK + (t - before) * moves.log_weight(states).view(-1, each)
        log_w_GK, ancestor_N = resampled(log_w_GK, ess_threshold, generator)
        states = states.select(ancestor_N)
        for _ in range(moves_per_rung):
            states, accept_N = moves.step(states, t, generator)
            accepted = [*accepted, accept_N.double().view(num_prompts, -1).mean(1)]
        if on_rung is not None:
            on_rung(rung)
        return states, log_w_GK, accepted

    log_w_GK = torch.zeros_like(states.log_prior_N).view(-1, each)
    states, log_w_GK, accepted = fold(
        (states, log_w_GK, []), range(1, len(ladder)), climb, generator
    )
    return replace(states, log_weight_N=log_w_GK.flatten()), torch.stack(accepted).mean(0).cpu()


def resampled(
    log_w_GK: Tensor, ess_threshold: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Resampling inside the populations of which fewer than `ess_threshold` is effective: the new
    log-weights, all log Z-hat, and each particle's ancestor. One without any weight stays."""
    replicates, each = log_w_GK.shape
    uniform_G1 = torch.rand(replicates, 1, dtype=torch.float64, generator=generator)
    due_G1 = (ess(log_w_GK) < ess_threshold * each)[:, None] & ~log_w_GK.isneginf().all(
        1, keepdim=True
    )
    place_K = torch.arange(each, device=log_w_GK.device)
    size_G = torch.full((replicates,), each, device=log_w_GK.device)
    chosen_GK = ancestors(
        "systematic",
        log_w_GK.where(due_G1, 0.0),
        size_G,
        uniform_G1.to(log_w_GK.device),
    ).where(due_G1, place_K)
    first_G1 = each * torch.arange(replicates, device=log_w_GK.device)[:, None]
    log_z_G1 = log_mean_exp(log_w_GK)[:, None]
    return log_z_G1.where(due_G1, log_w_GK), (first_G1 + chosen_GK).flatten()


def _thinned(draws: Draws, job: Job) -> Draws:
    """`num_samples` per prompt, chosen at random: each particle is then as likely as any other of
    its population to stay, whatever its place among the resampled."""
    num = len(draws) // len(job.target.prompts)
    if num == job.num_samples:
        return draws
    generator = job.generator("annealed left out")
    order = torch.argsort(draws.completions.prompt_index_N, stable=True).view(-1, num)
    kept = [
        rows[
            torch.randperm(num, generator=generator)[: job.num_samples]
            .sort()
            .values.to(rows.device)
        ]
        for rows in order
    ]
    return draws.select(torch.cat(kept))


def _figures(rate_P: Tensor, rungs: int, num: int) -> dict[str, Estimate]:
    each = [Estimate(rate, torch.nan, "heuristic", num) for rate in floats(rate_P)]
    return {
        "acceptance": replace(worst(each), value=float(rate_P.mean())),
        "rungs": Estimate(rungs, 0.0, "exact", num),
    }

"""Quasi-rejection sampling: rejection without a bound, and how far that is from the target."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from posteriori.core.draw import draw
from posteriori.core.estimates import combine, mean
from posteriori.core.settings.strict import Strict
from posteriori.core.tensors import floats
from posteriori.core.types import Draws, Estimate, Finding, Guarantee
from posteriori.errors import ConfigError, SamplingError
from posteriori.samplers.base import Job, Sampler
from posteriori.samplers.weight_findings import log_z_of_pool

from .acceptance_stream import Accepted, accepted_draws, equal
from .qrs_curve import BEYOND, QRSPoint, curve_at, threshold_for, weights_of_prompt

_ACCEPTANCE = 0.1


class QRSConfig(Strict):
    """Settings of the sampler "qrs", quasi-rejection sampling.

    Args:
        log_threshold: log b in nats, for all prompts; a draw of weight w is accepted with
            probability min(w / b, 1).
        acceptance: in its place, the rate at which draws of the pool are to be accepted, at most 1.
        pool: draws of the proposal per prompt that the threshold is found from.
        max_draws: draws of the proposal per prompt that are made at most.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.QRSConfig(acceptance=0.1).pool
        1024
    """

    log_threshold: float | None = None
    acceptance: float | None = Field(default=None, gt=0, le=1)
    pool: int = Field(default=1024, ge=2)
    max_draws: int | None = Field(default=None, ge=1)


class QRS(Sampler[QRSConfig]):
    """y ~ q, accepted with probability min(1, w(y)/b),  w = p~/q;  law p_b ~ min(p~, b q).

    Independent draws of p_b, for any b > 0; p_b = p* where b >= w everywhere, and otherwise the
    outcomes of more weight than b come too seldom. So the guarantee is "heuristic", and how far p_b
    is from p* is estimated from a pool of `pool` draws of q per prompt: a finding gives TV(p*, p_b)
    and KL(p*, p_b) in nats beside the acceptance rate Z_b/b, with Z_b = sum_y min(p~, b q).
    `qrs_curve` gives them for any b from the same kind of pool.

    `log_threshold` is log b, nats; or `acceptance` is the rate that is wanted (0.1 by default), and
    each prompt has the b that gives it on its pool (the evidence's own bound where that is less: a
    larger b buys nothing, and p_b = p* there). The pool chooses b and estimates `log_z` (the mean
    weight, a lower bound in expectation); draws that are accepted are new ones, so they do not
    depend on how b was found. Streams and budget (`max_draws`) are those of `rejection`.

    Raises `ConfigError` for both settings at once, `SamplingError` where no draw of a prompt's pool
    has any weight. (Eikema et al. 2022, arXiv 2112.05702, sections 2 and 3.)
    """

    name = "qrs"
    guarantee: ClassVar[Guarantee] = "heuristic"

    Settings = QRSConfig

    def run(self, job: Job) -> Draws:
        pool = draw(job.target, job.proposal, self.settings.pool, job.generator(self.name, "pool"))
        log_b_P = self._thresholds(job, pool)
        job.keep(equal(pool.select(slice(0, 0))))  # none of its draws, and their cost

        def log_accept(draws: Draws) -> torch.Tensor:
            at_N = job.target.prompt_positions(draws.completions).cpu()
            return (draws.log_weight.cpu() - log_b_P[at_N]).clamp(max=0.0)

        accepted = accepted_draws(job, self.name, log_accept, self.settings.max_draws)
        point = curve_at(pool, log_b_P, "consistent")
        log_z, found = log_z_of_pool(job.target, pool)
        quality = Finding(
            "info",
            "qrs_quality",
            f"These draws follow p_b: TV(p*, p_b) is {point.tv}, KL(p*, p_b) {point.kl} nats, "
            f"and {point.acceptance} of the proposal's draws are accepted.",
        )
        return replace(
            accepted.draws,
            log_z=log_z,
            figures=_figures(accepted, log_b_P),
            findings=(quality, *self._doubts(job, point), *found, *accepted.findings),
        )

    def _thresholds(self, job: Job, pool: Draws) -> torch.Tensor:
        """log b of each prompt, [P]."""
        if self.settings.log_threshold is not None and self.settings.acceptance is not None:
            raise ConfigError(
                "log_threshold and acceptance are two ways to say the same",
                where="sampler 'qrs'",
                hint="give one of them",
            )
        prompts = job.target.prompts
        if self.settings.log_threshold is not None:
            return torch.full((len(prompts),), self.settings.log_threshold, dtype=torch.float64)
        bound = job.target.max_log_evidence if job.proposal is job.target.prior else None
        chosen: list[float] = []
        for at, prompt in enumerate(prompts):
            log_w_n = weights_of_prompt(pool, at)
            if bool(log_w_n.isneginf().all()):
                raise SamplingError(
                    f"none of the {len(log_w_n)} pool draws for {str(prompt)[:60]!r} has any "
                    "weight, so they cannot say where the threshold should be",
                    where="sampler 'qrs'",
                    hint="raise pool, take a proposal that is nearer to the target, or give "
                    "log_threshold",
                )
            log_b = threshold_for(log_w_n, self.settings.acceptance or _ACCEPTANCE)
            chosen.append(log_b if bound is None else min(log_b, bound))
        return torch.tensor(chosen, dtype=torch.float64)

    def _doubts(self, job: Job, point: QRSPoint) -> list[Finding]:
        """What the distances leave out, and where the wanted rate is not to be had."""
        doubts = []
        certain = job.target.max_log_evidence if job.proposal is job.target.prior else None
        for log_b, tv in zip(point.log_threshold, point.tv.per_prompt, strict=True):
            if BEYOND in tv.findings and (certain is None or log_b < certain):
                doubts = [BEYOND]
        wanted = self.settings.acceptance or _ACCEPTANCE
        least = min(each.value for each in point.acceptance.per_prompt)
        if self.settings.log_threshold is None and least < wanted * (1 - 1e-9):
            doubts.append(
                Finding(
                    "warn",
                    "acceptance_out_of_reach",
                    f"Only {least:.3g} of a prompt's draws of the proposal have any weight, so no "
                    f"threshold accepts {wanted:.3g} of them.",
                    "Ask for a lower acceptance, or take a proposal that is nearer to the target.",
                )
            )
        return doubts


def _figures(accepted: Accepted, log_b_P: torch.Tensor) -> dict[str, Estimate]:
    """KL(p_b, prior) = E_p_b[min(log w, log b) + log q - log prior] - log Z_b, nats, where every
    prompt has draws enough for an error.

    log Z_b = log b + log of the acceptance rate, whose error is independent of which outcomes were
    accepted.
    """
    draws = accepted.draws
    per_prompt: list[Estimate] = []
    log_w_N = (draws.log_prior_N + draws.log_evidence_N - draws.log_proposal_N).cpu()
    from_prior_N = (draws.log_proposal_N - draws.log_prior_N).cpu()
    for at, log_b in enumerate(floats(log_b_P)):
        mine = (draws.completions.prompt_index_N == at).cpu()
        if int(mine.sum()) < 2:
            return {}
        of_draws = mean((log_w_N.clamp(max=log_b) + from_prior_N)[mine])
        log_rate, error = accepted.log_rate(at)
        per_prompt.append(
            replace(
                of_draws,
                value=of_draws.value - log_b - log_rate,
                standard_error=math.hypot(of_draws.standard_error, error),
            )
        )
    return {"kl_to_prior": combine(per_prompt, "consistent")}

"""Importance sampling: draws of the proposal, weighted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

from posteriori.core.draw import draw
from posteriori.core.numerics import pareto_k, pareto_smooth
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.settings.strict import Strict
from posteriori.core.types import Draws, Finding, Guarantee
from posteriori.samplers.base import Job, Sampler
from posteriori.samplers.weight_findings import findings_of_weights, log_z_of_pool

_ROUND = 256
"""Draws per prompt between two reports of progress."""


class ImportanceConfig(Strict):
    """Settings of the sampler "importance".

    Args:
        smooth: smooth the largest weights by a Pareto law (Vehtari et al. 2024): less variance,
            some bias.

    Raises:
        ConfigError: for an unknown setting, or a value of another type.

    Example:
        >>> po.ImportanceConfig(smooth=True).smooth
        True
    """

    smooth: bool = False


class Importance(Sampler[ImportanceConfig]):
    """y_i ~ q,  w_i = p~(y_i) / q(y_i),  Z-hat = (1/N) sum_i w_i.

    Properly weighted for every q that can draw whatever p~ can: E[w f(y)] = sum_y p~(y) f(y), and
    Z-hat is unbiased. How far the weights can be trusted is in the findings: by Pareto k-hat
    (Vehtari et al. 2024, arXiv 1507.02646), and by the effective number of draws. To get unweighted
    draws, `Draws.resample`: one of N resampled draws has a law q_N with
    KL(p*, q_N) <= log(1 + chi^2(p*, q) / N).

    `smooth` replaces each prompt's largest weights by what the fitted Pareto tail expects of them,
    never above the largest raw one (PSIS, the same paper; `core.numerics.pareto_smooth`). Estimates
    vary less, and lose what makes them certain: weights that depend on all draws are not properly
    weighted, Z-hat is biased (usually down) and tends to Z only with N. So `log_z` is "consistent"
    and no bound, and the guarantee is "asymptotic". The findings are about the raw weights.
    """

    name = "importance"
    guarantee: ClassVar[Guarantee] = "properly_weighted"

    Settings = ImportanceConfig

    def run(self, job: Job) -> Draws:
        for start in range(0, job.num_samples, _ROUND):
            size = min(_ROUND, job.num_samples - start)
            seeded = job.generator("importance", start)

            def report(done: int, total: int, start: int = start, size: int = size) -> None:
                job.progress(start + size * done // total, job.num_samples)

            job.keep(draw(job.target, job.proposal, size, seeded, on_progress=report))
        draws = Draws.concat(job.kept)
        if self.settings.smooth:
            draws = _smoothed(draws, job)
        kind = "consistent" if self.settings.smooth else "lower_bound"
        log_z, _ = log_z_of_pool(job.target, draws, kind, weighted=True)
        return replace(draws, log_z=log_z)


def _smoothed(draws: Draws, job: Job) -> Draws:
    log_w_N = draws.log_weight.clone()
    found, as_they_were = findings_of_weights(job.target, draws), 0
    for rows in rows_of_prompts(draws.completions):
        log_w_n = log_w_N[rows].cpu()
        log_w_N[rows] = pareto_smooth(log_w_n).to(log_w_N.device)
        k = pareto_k(log_w_n)
        as_they_were += math.isnan(k) or k == math.inf
    if as_they_were:
        found.append(
            Finding(
                "warn",
                "weights_not_smoothed",
                f"No tail could be fitted for {as_they_were} of "
                f"{len(draws.completions.prompt_set)} prompts, so their weights are the raw ones.",
                "Draw more, or from a proposal that is nearer to the target.",
            )
        )
    return replace(draws, log_weight_N=log_w_N, guarantee="asymptotic", findings=tuple(found))

"""Importance sampling: draws of the proposal, weighted."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from ..draw import draw
from ..estimates import combine, log_mean_weight
from ..types import Draws, Guarantee
from .base import Job, Sampler

_ROUND = 256
"""Draws a prompt between two reports of progress."""


class Importance(Sampler):
    """y_i ~ q,  w_i = p~(y_i) / q(y_i),  Z-hat = (1/N) sum_i w_i.

    Properly weighted for every q that can draw whatever p~ can: E[w f(y)] = sum_y p~(y) f(y), and
    Z-hat is unbiased. How far the weights can be trusted is in the findings: by Pareto k-hat
    (Vehtari et al. 2024, arXiv 1507.02646), and by the effective number of draws. To get unweighted
    draws, `Draws.resample`: one of N resampled draws has a law q_N with
    KL(p*, q_N) <= log(1 + chi^2(p*, q) / N).
    """

    name = "importance"
    guarantee: ClassVar[Guarantee] = "properly_weighted"

    def run(self, job: Job) -> Draws:
        for start in range(0, job.num_samples, _ROUND):
            size = min(_ROUND, job.num_samples - start)
            job.keep(draw(job.target, job.proposal, size, job.generator("importance", start)))
            job.progress(start + size, job.num_samples)
        draws = Draws.concat(job.kept)
        prompt_N = draws.completions.prompt_index_N
        per_prompt = [
            log_mean_weight(draws.log_weight[prompt_N == at])
            for at in range(len(job.target.prompts))
        ]
        return replace(draws, log_z=combine(per_prompt, "lower_bound"))

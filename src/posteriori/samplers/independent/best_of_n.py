"""Best of n: the draw of most evidence among n, and how far that is from where they came."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.draw import draw
from posteriori.core.estimates import combine, mean
from posteriori.core.settings.strict import Strict
from posteriori.core.types import Draws, Estimate, Finding, Guarantee
from posteriori.samplers.base import Job, Sampler
from posteriori.samplers.weight_findings import log_z_of_pool

from .best_of_n_law import best_of_n_kl, best_of_n_kl_bound

_ROUND = 256
"""Draws of the proposal a prompt between two reports of progress."""

_GROUPS = 8
"""Groups of n a prompt that its KL to the prior is asked for."""


class BestOfNConfig(Strict):
    """Settings of the samplers "best_of_n" and "soft_best_of_n".

    Args:
        n: draws of the proposal, of which one is kept.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.BestOfNConfig(n=4).n
        4
    """

    n: int = Field(default=16, ge=1)


class BestOfN(Sampler[BestOfNConfig]):
    """y = argmax of log e among y_1 .. y_n ~ q,  law p_n = q (F^n - F_-^n) / (F - F_-).

    F is the distribution function of log e under q(.|c) at y's own, F_- its value just below, and
    ties are broken uniformly. For a single reward log e = r/beta, so this is the best of n by
    reward, whatever beta is; a constraint outranks it. The law is never p*: the guarantee is
    "heuristic". It is KL(p_n, q) away from its proposal, at most log n - (n - 1)/n and less where
    outcomes tie; a finding gives it (`best_of_n_kl`). Independent draws of weight 1; where all n
    were ruled out, one of them is returned with weight 0.

    All n draws are in the cost, and serve `log_z` as in `importance`: a lower bound in expectation.
    (Beirami et al. 2024, arXiv 2401.01879; its bound holds with ties, its law here includes them.)
    """

    name = "best_of_n"
    guarantee: ClassVar[Guarantee] = "heuristic"

    Settings = BestOfNConfig

    def shares(self, draws: Draws) -> Tensor:
        """The probability with which each of a group's draws is taken, [groups, n]."""
        score_GN = draws.log_evidence_N.view(-1, self.settings.n)
        best_GN = (score_GN == score_GN.amax(-1, keepdim=True)).double()
        return best_GN / best_GN.sum(-1, keepdim=True)

    def describe(self, pool: Draws) -> tuple[Finding, ...]:
        """What all the draws of the proposal say of the law."""
        kl, n = best_of_n_kl(pool, self.settings.n), self.settings.n
        return (
            Finding(
                "info",
                "kl_of_best_of_n",
                f"The best of {n} is {kl} nats from the proposal (KL), at most "
                f"{best_of_n_kl_bound(n):.4g}.",
            ),
        )

    def kl_to_prior(self, pool: Draws, picked: Draws) -> Estimate | None:
        """KL(p_n, prior) = KL(p_n, q) + E_p_n[log q - log prior], nats: from the pool and from the
        draws that were picked. The same draws are behind both, so their errors are added, which
        bounds that of the sum. None where picks were ruled out (those that are left follow p_n
        given that they were not), or where so few groups say little of their law."""
        at_N = picked.completions.prompt_index_N
        ruled_out = bool(picked.log_weight.isneginf().any())
        if ruled_out or int(at_N.bincount().min()) < _GROUPS:
            return None

        def of_prompt(at: int, kl: Estimate) -> Estimate:
            mine = at_N == at
            from_prior = mean((picked.log_proposal_N - picked.log_prior_N)[mine].cpu())
            error = kl.standard_error + from_prior.standard_error
            return replace(kl, value=kl.value + from_prior.value, standard_error=error)

        each = best_of_n_kl(pool, self.settings.n).per_prompt
        return combine([of_prompt(at, kl) for at, kl in enumerate(each)], "consistent")

    def run(self, job: Job) -> Draws:
        n, prompts = self.settings.n, len(job.target.prompts)
        groups_at_once = max(1, _ROUND // n)
        pools: list[Draws] = []
        for start in range(0, job.num_samples, groups_at_once):
            groups = min(groups_at_once, job.num_samples - start)
            drawn = draw(job.target, job.proposal, groups * n, job.generator(self.name, start))
            coin_G1 = torch.rand(
                (prompts * groups, 1),
                dtype=torch.float64,
                generator=job.generator(self.name, "choose", start),
            )
            chosen_G1 = choose(self.shares(drawn).cpu(), coin_G1)
            first_G1 = n * torch.arange(prompts * groups)[:, None]
            picked = drawn.select((first_G1 + chosen_G1)[:, 0])
            ruled_out_N = picked.log_weight.isneginf()
            weight_N = torch.zeros_like(picked.log_prior_N).masked_fill(ruled_out_N, -math.inf)
            job.keep(replace(picked, log_weight_N=weight_N))
            pools.append(drawn)
            job.progress(start + groups, job.num_samples)
        pool = Draws.concat(pools)
        log_z, found = log_z_of_pool(job.target, pool)
        picked = Draws.concat(job.kept)
        kl = self.kl_to_prior(pool, picked)
        figures = {} if kl is None else {"kl_to_prior": kl}
        return replace(
            picked, log_z=log_z, figures=figures, findings=(*self.describe(pool), *found)
        )


def choose(share_GN: Tensor, coin_G1: Tensor) -> Tensor:
    """One place a row with the probabilities `share_GN`, by inverting their sum; [G, 1]."""
    cumulative_GN = share_GN.cumsum(-1)
    return torch.searchsorted(cumulative_GN / cumulative_GN[:, -1:], coin_G1, right=True)

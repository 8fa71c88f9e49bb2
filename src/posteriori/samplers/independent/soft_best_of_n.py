"""Soft best of n: one draw by importance resampling among n."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from posteriori.core.numerics import ess
from posteriori.core.types import Draws, Finding, Guarantee

from .best_of_n import BestOfN


class SoftBestOfN(BestOfN):
    """y = y_J,  J ~ w_j / sum_i w_i  among y_1 .. y_n ~ q,  w = p~/q (= e where q is the prior).

    The law p_n(y) = p~(y) E[n / (w(y) + sum of n - 1 more weights)] goes from q (n = 1) to p*
    (n to infinity), KL(p*, p_n) <= log(1 + chi^2(p*, q) / n): never p* itself, so the guarantee is
    "heuristic". Independent draws of weight 1; where all n were ruled out, one of them is returned
    with weight 0. All n draws are in the cost, and serve `log_z` as in `importance`.

    (Sampling-importance resampling: Rubin 1987; as soft best-of-n, from the prior with exp(r/beta):
    Verdun et al. 2025, arXiv 2505.03156. The bound: Jensen's inequality on the law above.)
    """

    name = "soft_best_of_n"
    guarantee: ClassVar[Guarantee] = "heuristic"

    def shares(self, draws: Draws) -> Tensor:
        log_w_GN = draws.log_weight.view(-1, self.settings.n)
        none_G1 = log_w_GN.isneginf().all(-1, keepdim=True)
        return torch.where(none_G1, torch.zeros_like(log_w_GN), log_w_GN).softmax(-1)

    def kl_to_prior(self, pool: Draws, picked: Draws) -> None:
        """Its law is a mean over groups at each outcome, which draws do not give."""

    def describe(self, pool: Draws) -> tuple[Finding, ...]:
        """The bound on KL(p*, p_n), with 1 + chi^2 = E[w^2] / Z^2 from all the draws."""
        n = self.settings.n
        bounds: list[float] = []
        for at in range(len(pool.completions.prompt_set)):
            log_w_n = pool.log_weight[pool.completions.prompt_index_N == at]
            effective = float(ess(log_w_n))
            chi2 = len(log_w_n) / effective - 1 if effective else math.inf
            bounds.append(math.log1p(chi2 / n))
        return (
            Finding(
                "info",
                "kl_of_soft_best_of_n",
                f"KL(p*, law) is at most about {max(bounds):.3g} nats with n = {n} (the worst "
                f"prompt, as far as {len(pool)} draws can show).",
            ),
        )

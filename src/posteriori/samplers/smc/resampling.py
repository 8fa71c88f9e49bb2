"""Resampling: which particles go on, and how often, so that all weigh the same afterwards."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from posteriori.models.execution.inverse_cdf import draw_tokens

from .guidance import Guided

Scheme = Literal["systematic", "stratified", "multinomial"]


def uniforms_needed(scheme: Scheme, width: int) -> int:
    """How many uniform numbers a population of that width takes."""
    return 1 if scheme == "systematic" else width


def ancestors(scheme: Scheme, log_w_GK: Tensor, size_G: Tensor, uniform_GU: Tensor) -> Tensor:
    """a [G, K]: the k-th particle of a population goes on from what its a_k-th was.

    Particle j of a population of n = `size_G` has an expected n W_j children, W = w / sum w, from
    the points at which the running sum of W is looked up:

        multinomial   u_k             independent children; those of `conditional_log_z`
        stratified    (k + u_k) / n   one point a stratum
        systematic    (k + u) / n     as many children as floor or ceil of n W_j

    `uniform_GU` holds `uniforms_needed` numbers in [0, 1). Places from `size_G` on hold no particle
    and stay where they are. A particle without weight has no child; each population needs one that
    has some. Douc, Cappe and Moulines 2005 (arXiv cs/0507025).
    """
    width = log_w_GK.shape[1]
    place_K = torch.arange(width, device=log_w_GK.device)
    point_GK = uniform_GU.expand(-1, width)
    if scheme != "multinomial":
        point_GK = (place_K + point_GK) / size_G[:, None]
    cumulative_GK = log_w_GK.softmax(-1).cumsum(-1)
    total_G1 = cumulative_GK[:, -1:]
    # Rounding must not carry the last point past the last particle that has weight.
    below_total_G1 = torch.nextafter(total_G1, torch.zeros_like(total_G1))
    point_GK = torch.minimum(point_GK * total_G1, below_total_G1)
    ancestor_GK = torch.searchsorted(cumulative_GK, point_GK, right=True)
    return ancestor_GK.where(place_K < size_G[:, None], place_K)


class Choices:
    """Every random decision of a run, in one place: a test can put all of them in its stead."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def tokens(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        """A token per row, with probability softmax(logits), and its log-prob; [R] each."""
        uniform_R = self._uniform(len(logits_RV)).to(logits_RV.device)
        return draw_tokens(logits_RV, uniform_R)

    def guided(self, q: Guided) -> Tensor:
        """A token per row of q, [R]."""
        rows = q.logits_RV
        return q.draw(self._uniform(len(rows)).to(rows.device))

    def ancestors(self, scheme: Scheme, log_w_GK: Tensor, size_G: Tensor) -> Tensor:
        """As the function of that name."""
        uniform_GU = self._uniform(len(log_w_GK), uniforms_needed(scheme, log_w_GK.shape[1]))
        return ancestors(scheme, log_w_GK, size_G, uniform_GU.to(log_w_GK.device))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=self.generator)

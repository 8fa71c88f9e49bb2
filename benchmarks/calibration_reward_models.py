"""Intervals of a reward model's log-odds for new pairs, by features whose head is known."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from posteriori.core.seeds import generator
from posteriori.reward_models.ensemble import solved, widened
from posteriori.reward_models.head_posterior import HeadPosterior
from posteriori.reward_models.laplace import PairFeatures, integrated

COUNTS = (50, 300)
"""Pairs that are trained on."""

_WIDTH, _SPREAD, _MEMBERS, _NEW = 16, 2.0, 8, 40


def pair_intervals(num: int, runs: int, seed: int) -> Iterator[tuple[str, tuple]]:
    """One new pair a row: log-odds, their standard deviation, the truth; none is flagged."""
    for run in range(runs):
        stream = generator(seed, "reward model", run)

        def normal(*shape: int, stream: torch.Generator = stream) -> Tensor:
            return torch.randn(shape, generator=stream, dtype=torch.float64)

        seen_ND, new_ND, head_D = normal(num, _WIDTH), normal(_NEW, _WIDTH), normal(_WIDTH)
        head_D *= _SPREAD / head_D.norm()
        uniform_N = torch.rand(num, generator=stream, dtype=torch.float64)
        label_N = (uniform_N < (seen_ND @ head_D).sigmoid()).double()
        pairs = PairFeatures(seen_ND, torch.zeros_like(label_N), label_N)
        nowhere_D = torch.zeros(_WIDTH, dtype=torch.float64)
        found = integrated(pairs)
        fitted = {
            "laplace": HeadPosterior.gaussian(found.mean_D, found.covariance_DD, nowhere_D),
            "ensemble": HeadPosterior.from_members(
                widened(solved(pairs, _MEMBERS, seed + run)[0], pairs), nowhere_D
            ),
        }
        for name, posterior in fitted.items():
            value_N, sd_N = posterior.mean(new_ND), posterior.sd(new_ND)
            for each in zip(
                value_N.tolist(), sd_N.tolist(), (new_ND @ head_D).tolist(), strict=True
            ):
                yield name, (*each, False)

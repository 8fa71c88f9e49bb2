"""Whether chains have run for long enough: R-hat and effective draws, in figures and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from arviz_stats.base.array import array_stats
from torch import Tensor

from posteriori.core.estimates import worst
from posteriori.core.tensors import floats
from posteriori.core.types import Draws, Estimate, Finding

_STATS: Any = array_stats  # its functions have no types of their own

_FEW = 400
"""Effective draws below which R-hat itself cannot be trusted (Vehtari et al. 2021)."""

_HALF = 0.5
"""Of the draws that are wanted: chains that are worth more than this are said to be worth less, and
errors over chains count it; below, something is wrong."""


@dataclass
class Trace:
    """Every step after the burn-in: reward, log prior and length of each state, and acceptance."""

    num_prompts: int
    values: list[Tensor] = field(default_factory=list[Tensor])
    accepted: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, states: Draws, accept_N: Tensor) -> None:
        self.extend([self.of(states, accept_N)])

    @staticmethod
    def of(states: Draws, accept_N: Tensor) -> tuple[Tensor, Tensor]:
        """What a trace keeps of one step."""
        lengths_N = states.completions.lengths_N.double()
        value_N3 = torch.stack([states.reward_N, states.log_prior_N, lengths_N], dim=1)
        return value_N3.cpu(), accept_N.double().cpu()

    def extend(self, steps: Sequence[tuple[Tensor, Tensor]]) -> None:
        """The next steps, each as `of` gives it."""
        for value_N3, accept_N in steps:
            self.values.append(value_N3)
            self.accepted.append(accept_N)

    def figures(self) -> dict[str, Estimate]:
        """`r_hat` (the largest) and `effective_draws` (the fewest) over reward, log-prob and
        length, and the `acceptance` rate; each with one per prompt inside."""
        steps = len(self.values)
        by_chain = torch.stack(self.values).view(steps, self.num_prompts, -1, 3)
        rate_P = torch.stack(self.accepted).view(steps, self.num_prompts, -1).mean((0, 2))
        num = steps * by_chain.shape[2]
        r_hat: list[Estimate] = []
        effective: list[Estimate] = []
        for value_SC3 in by_chain.unbind(1):
            pairs = [mixing(value_SC3[..., k].T.numpy()) for k in range(3)]
            r_hat.append(
                _figure(max((r for r, _ in pairs if not math.isnan(r)), default=math.nan), num)
            )
            effective.append(
                _figure(min((e for _, e in pairs if not math.isnan(e)), default=math.nan), num)
            )
        rates = [_figure(rate, num) for rate in floats(rate_P)]
        fewest = float(torch.tensor([e.value for e in effective]).min())  # NaN wins
        return {
            "r_hat": worst(r_hat),
            "effective_draws": replace(worst(effective), value=fewest),
            "acceptance": replace(worst(rates), value=float(rate_P.mean())),
        }


def mixing(value_CS: np.ndarray) -> tuple[float, float]:
    """(R-hat, effective draws) of one quantity over C chains of S steps.

    Rank-normalised split R-hat and bulk effective draws (Vehtari et al. 2021, arXiv 1903.08008).
    Both NaN where nothing can be said: fewer than four steps, or one value throughout (for which
    arviz has as many effective draws as states). R-hat is NaN for a single chain, and infinite for
    chains that stand still at different values (arviz divides zero by zero).
    """
    if value_CS.shape[1] < 4 or np.ptp(value_CS) == 0:
        return math.nan, math.nan
    if (np.ptp(value_CS, axis=1) == 0).all():
        return math.inf, float(len(value_CS))
    with np.errstate(divide="ignore", invalid="ignore"):  # of the folded values of a coin toss
        r_hat = np.asarray(_STATS.rhat(value_CS)) if len(value_CS) > 1 else np.nan
        return float(r_hat), float(np.asarray(_STATS.ess(value_CS)))


def _figure(value: float, num: int) -> Estimate:
    return Estimate(value, math.nan, "heuristic", num)


def findings(figures: dict[str, Estimate], chains: int, num_samples: int) -> list[Finding]:
    """R-hat and effective draws in words, against what can be asked of so many draws and chains.

    Asked for are 400 effective draws, or as many as were wanted. Chains that have converged then
    show R-hat = sqrt(1 + 2 chains / 400) by chance alone: the usual 1.01 for four chains.
    """
    found: list[Finding] = []
    asked = min(_FEW, num_samples)
    limit = max(1.01, math.sqrt(1 + 2 * chains / asked))
    r_hat = max((e.value for e in figures["r_hat"].per_prompt), key=_nan_last)
    of_prompts = figures["effective_draws"].per_prompt
    unknown = [e for e in of_prompts if math.isnan(e.value)]
    effective = min((e.value for e in of_prompts if not math.isnan(e.value)), default=math.inf)
    if unknown:
        found.append(
            Finding(
                "warn",
                "convergence_unknown",
                f"For {len(unknown)} prompts the chains are too short, or show one and the same "
                "reward, log-prob and length throughout: none can show whether they converged.",
                "Raise num_samples or thin.",
            )
        )
    if r_hat > limit:
        found.append(
            Finding(
                "warn",
                "chains_disagree",
                f"R-hat is {r_hat:.3f} (at most {limit:.3f} once converged): chains, or their "
                "halves, differ in reward, log-prob or length.",
                "Raise burn_in and thin, or use a proposal that is nearer to the target.",
            )
        )
    if effective < asked:
        found.append(
            Finding(
                "warn" if effective < _HALF * asked else "info",
                "few_effective_draws",
                f"The chains are worth {effective:.0f} independent draws per prompt "
                f"(acceptance {figures['acceptance'].value:.0%}); wanted are {asked}.",
                "Raise thin, or use a proposal that is nearer to the target.",
            )
        )
    return found


def _nan_last(value: float) -> float:
    return -math.inf if math.isnan(value) else value

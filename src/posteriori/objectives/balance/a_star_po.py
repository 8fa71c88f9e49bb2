"""A*-PO: trajectory balance with log Z frozen, from draws of the prior or from a frontier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from posteriori.core.draw import draw
from posteriori.core.protocols import TrainableLM
from posteriori.core.seeds import generator
from posteriori.core.settings.strict import as_tuple
from posteriori.core.target import Target
from posteriori.core.tensors import distinct, ints
from posteriori.core.types import Cost, Draws
from posteriori.errors import ConfigError, ObjectiveError
from posteriori.objectives.base import log_sum_by

from .balance import Balance, BalanceConfig


class AStarPOConfig(BalanceConfig):
    """Settings of the objective "a_star_po".

    Args:
        proposal: what draws: "policy", as it stands, or "prior".
        epochs: updates made of one step's draws.
        log_z_samples: draws of the prior per prompt that log Z is estimated from, once; 64 where
            `log_z` is left out too.
        log_z: log Z of each of the target's prompts, where it is known: from a frontier, say, or
            annealed draws.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    log_z_samples: int | None = Field(default=None, ge=2)
    log_z: Annotated[tuple[float, ...] | None, BeforeValidator(as_tuple)] = None


DEFAULT_SAMPLES = 64


class AStarPO(Balance[AStarPOConfig]):
    """loss = (rho - log Z-hat(c))^2 / 2,  log Z-hat = log mean of e over draws of the prior.

    Regression of log pi/prior on r/beta - V*/beta, with V* = beta log Z the optimal value: `tb`
    with a log Z that is estimated before a prompt's first step and then stays. On-policy the
    expected gradient of a first update is that of KL(pi, p*) in nats, whatever log Z-hat is: a
    number that the draws have no part in is a baseline. So one draw per prompt and step is enough
    (`num_samples=1`, as published), and p* is the fixed point. An error d of log Z-hat does not
    move it; it leaves each draw the gradient d grad log pi there, so the noise does not vanish.

    Draws of the prior, of earlier steps (`replay`) or for a later update (`epochs`) come from some
    other q, and then it does move: to the pi with q (log Z-hat - rho) = m pi for one number m,
    which is p* for the exact log Z alone. Take `tb` or `vargrad` there.

    The mean of log Z-hat over the prompts so far is recorded as `log_z`, with `log_z_error`, its
    standard error by the spread of e (0 for numbers that were given). log Z-hat is below log Z in
    expectation, by about half that variance.

    Evidence zero makes rho infinite and raises `ObjectiveError`.

    Source: Brantley et al. 2025, arXiv 2505.20686, algorithm 1 (with 8 draws, and beta apart for
    V* and the regression).
    """

    name = "a_star_po"

    Settings = AStarPOConfig

    log_z_variance_P: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        its = self.settings
        if its.log_z is not None and its.log_z_samples is not None:
            raise ConfigError(
                "log_z_samples are draws to estimate log Z from, and log_z is given",
                where=f"objective '{self.name}'",
                hint="remove one of them",
            )
        if self.divergence is None:
            self.fixed_point = "the target as far as log Z is exact, for draws not of the policy"

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:
        super().prepare(target, new_policy, seed)
        self._seed = seed
        self.register_buffer("log_z_variance_P", torch.zeros_like(self.log_z_P))
        given = self.settings.log_z
        if given is None:
            return
        if len(given) != len(self.log_z_P):
            raise ConfigError(
                f"log_z has {len(given)} numbers, and the target {len(self.log_z_P)} prompts",
                where=f"objective '{self.name}'",
                hint="give one number per prompt, in the order of target.prompts",
            )
        self.log_z_P = torch.tensor(given, dtype=torch.float64)

    def complete(self, target: Target, draws: Draws) -> Draws:
        at = distinct(target.prompt_positions(draws.completions))
        return replace(draws, cost=draws.cost + self._freeze(target, ints(at)))

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        known_P = ~self.log_z_P.isnan()
        number = int(known_P.sum())
        return {
            **super().observe(draws, log_prob_N),
            "log_z": float(self.log_z_P[known_P].mean()),
            "log_z_error": float(self.log_z_variance_P[known_P].sum().sqrt()) / max(1, number),
        }

    def _freeze(self, target: Target, places: Sequence[int]) -> Cost:
        """Estimate log Z of those prompts that it is not known of."""
        new = [at for at in places if bool(self.log_z_P[at].isnan())]
        if not new:
            return Cost()
        number = self.settings.log_z_samples or DEFAULT_SAMPLES
        stream = generator(self._seed, "log Z", new[0])
        drawn = draw(target, target.prior, number, stream, [target.prompts[at] for at in new])
        log_e_N = drawn.log_evidence_N.double().cpu()
        at_N = target.prompt_positions(drawn.completions).cpu()
        size = len(self.log_z_P)
        log_sum_P = log_sum_by(log_e_N, at_N, size)
        nothing = [at for at in new if bool(log_sum_P[at].isneginf())]
        if nothing:
            raise ObjectiveError(
                f"'{self.name}' estimates log Z from draws of the prior, and the evidence rules "
                f"out all {number} of the prompt {str(target.prompts[nothing[0]])[:60]!r}",
                hint="raise log_z_samples, give log_z, or use an objective for hard evidence (dpg, "
                "raft)",
            )
        # The variance of the mean of e, relative to its square: n / (n - 1) of that by the sums.
        log_square_P = log_sum_by(2 * log_e_N, at_N, size) - 2 * log_sum_P
        variance_P = (log_square_P.exp() - 1 / number).clamp(min=0) * number / (number - 1)
        log_z_P, spread_P = self.log_z_P.cpu().clone(), self.log_z_variance_P.cpu().clone()
        log_z_P[new] = (log_sum_P - math.log(number))[new]
        spread_P[new] = variance_P[new]
        self.log_z_P = log_z_P.to(self.log_z_P.device)
        self.log_z_variance_P = spread_P.to(self.log_z_P.device)
        return drawn.cost

"""Trajectory balance: the log-ratio's squared distance from a learned log Z."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.protocols import TrainableLM
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.objectives.base import Constants, count_by
from posteriori.objectives.score_function import (
    AnyProposal,
    AnyProposalConfig,
    refuse_hard_evidence,
)


class TBConfig(AnyProposalConfig):
    """Settings of the objective "tb".

    Args:
        proposal: what draws: "policy", as it stands, or "prior".
        epochs: updates made of one step's draws.
        log_z_learning_rate: of each prompt's log Z; 1 is Newton's step.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    epochs: int = Field(default=1, ge=1)
    log_z_learning_rate: float = Field(default=0.2, gt=0, le=1)


class TB(AnyProposal[TBConfig]):
    """loss = (rho - log Z_theta(c))^2 / 2,  rho = log prior + log e - log pi,  y ~ any q.

    Zero, with its gradient, at the target with log Z_theta = log Z(c), for any q that can draw
    every outcome, and so without importance ratios. With the half (the paper's loss is twice
    this), the policy's expected gradient on-policy is that of KL(pi, p*), in nats: log Z_theta is
    a baseline that the step's draws have no part in, whatever its value. Draws of the prior, of
    earlier steps (`replay`), or an update after the first of a step (`epochs`) give the gradient
    of E_q[(rho - log Z_theta)^2] / 2 instead, with q the mixture of all that drew.

    log Z_theta is one number per prompt of the target. It descends the same loss, by plain gradient
    steps on its prompt's fresh draws: log Z_theta += rate x (mean rho - log Z_theta), rate 1 being
    Newton's. (Adam's steps would not know how rarely a prompt's turn comes.) On-policy it follows
    the ELBO, log Z - KL(pi, p*), and so ends at log Z; its mean over the prompts that have had a
    draw is recorded as `log_z`. A prompt's first draws set it to their mean rho, which stands in
    for it in that step and scales the expected gradient by (n - 1)/n.

    Evidence zero makes rho infinite and raises `ObjectiveError`.

    Source: Hu et al. 2024, arXiv 2310.04363, section 3; Malkin et al. 2022, 2201.13259.
    """

    name = "tb"

    Settings = TBConfig

    log_z_P: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.epochs = self.settings.epochs
        if self.on_policy and self.epochs == 1:
            self.divergence = "KL(policy, target)"

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        self._target = target
        unknown_P = torch.full((len(target.prompts),), torch.nan, dtype=torch.float64)
        self.register_buffer("log_z_P", unknown_P)

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        rho_N = self._rho(draws, log_prob_N)
        at_N = self._target.prompt_positions(draws.completions)
        known_N = self.log_z_P.to(at_N.device)[at_N]
        return {
            "log_target_N": draws.log_prior_N + draws.log_evidence_N,
            "log_z_N": known_N.where(~known_N.isnan(), self._mean(rho_N, at_N)[at_N]),
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        rho_n = constants["log_target_N"] - token_log_prob_nL.sum(-1)
        return (rho_n - constants["log_z_N"]).square() / 2

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        at_N = self._target.prompt_positions(draws.completions)
        mean_P = self._mean(self._rho(draws, log_prob_N), at_N)
        log_z_P = self.log_z_P.to(at_N.device)
        moved_P = log_z_P.lerp(mean_P, self.settings.log_z_learning_rate)
        moved_P = moved_P.where(~log_z_P.isnan(), mean_P)
        self.log_z_P = moved_P.where(~mean_P.isnan(), log_z_P)
        figures = super().observe(draws, log_prob_N)
        return {**figures, "log_z": float(self.log_z_P.nanmean())}

    def _rho(self, draws: Draws, log_prob_N: Tensor) -> Tensor:
        refuse_hard_evidence(draws, "'tb' squares log evidence, which is infinite")
        return draws.log_prior_N + draws.log_evidence_N - log_prob_N

    def _mean(self, values_N: Tensor, at_N: Tensor) -> Tensor:
        """The mean of each of the target's prompts, [P]; NaN for one without a draw."""
        total_P = values_N.new_zeros(len(self.log_z_P)).index_add(0, at_N, values_N)
        return total_P / count_by(at_N, len(total_P))

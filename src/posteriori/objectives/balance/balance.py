"""What trajectory balance is, whatever log Z-hat it balances to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypeVar

from posteriori.core.protocols import TrainableLM
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.objectives.base import Constants, count_by, engine_ratio
from posteriori.objectives.score_function import (
    AnyProposal,
    AnyProposalConfig,
    refuse_hard_evidence,
)


class BalanceConfig(AnyProposalConfig):
    """Settings of the objectives that know a log Z per prompt.

    Args:
        proposal: what draws: "policy", as it stands, or "prior".
        epochs: updates made of one step's draws.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    epochs: int = Field(default=1, ge=1)


BalanceT = TypeVar("BalanceT", bound=BalanceConfig, default=BalanceConfig)


class Balance(AnyProposal[BalanceT]):
    """loss = (rho - log Z-hat(c))^2 / 2, with one log Z-hat per prompt of the target, in the buffer
    `log_z_P`, NaN for a prompt that it is not known of: there the mean rho of the step's draws
    stands in for it."""

    Settings = BalanceConfig

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
            "ratio_N": engine_ratio(draws),
            "log_target_N": draws.log_prior_N + draws.log_evidence_N,
            "log_z_N": known_N.where(~known_N.isnan(), self._mean(rho_N, at_N)[at_N]),
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        rho_n = constants["log_target_N"] - token_log_prob_nL.sum(-1)
        return constants["ratio_N"] * (rho_n - constants["log_z_N"]).square() / 2

    def _rho(self, draws: Draws, log_prob_N: Tensor) -> Tensor:
        refuse_hard_evidence(draws, f"'{self.name}' squares log evidence, which is infinite")
        return draws.log_prior_N + draws.log_evidence_N - log_prob_N

    def _mean(self, values_N: Tensor, at_N: Tensor) -> Tensor:
        """The mean of each of the target's prompts, [P]; NaN for one without a draw."""
        total_P = values_N.new_zeros(len(self.log_z_P)).index_add(0, at_N, values_N)
        return total_P / count_by(at_N, len(total_P))

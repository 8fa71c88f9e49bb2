"""Trajectory balance: the log-ratio's squared distance from a learned log Z."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from posteriori.core.types import Draws

from .balance import Balance, BalanceConfig


class TBConfig(BalanceConfig):
    """Settings of the objective "tb".

    Args:
        proposal: what draws: "policy", as it stands, or "prior".
        epochs: updates made of one step's draws.
        log_z_learning_rate: of each prompt's log Z; 1 is Newton's step.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    log_z_learning_rate: float = Field(default=0.2, gt=0, le=1)


class TB(Balance[TBConfig]):
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

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        at_N = self._target.prompt_positions(draws.completions)
        mean_P = self._mean(self._rho(draws, log_prob_N), at_N)
        log_z_P = self.log_z_P.to(at_N.device)
        moved_P = log_z_P.lerp(mean_P, self.settings.log_z_learning_rate)
        moved_P = moved_P.where(~log_z_P.isnan(), mean_P)
        self.log_z_P = moved_P.where(~mean_P.isnan(), log_z_P)
        figures = super().observe(draws, log_prob_N)
        return {**figures, "log_z": float(self.log_z_P.nanmean())}

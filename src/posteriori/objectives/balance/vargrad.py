"""VarGrad: the variance of the log-ratio between target and policy."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from posteriori.core.types import Draws
from posteriori.objectives.base import Constants, count_by, engine_ratio
from posteriori.objectives.score_function import (
    AnyProposal,
    AnyProposalConfig,
    mean_of_others,
    refuse_hard_evidence,
)


class VarGradConfig(AnyProposalConfig):
    """Settings of the objective "vargrad".

    Args:
        proposal: what draws: "policy", as it stands, or "prior".
        epochs: updates made of one step's draws.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    epochs: int = Field(default=1, ge=1)


class VarGrad(AnyProposal[VarGradConfig]):
    """loss(c) = Var[rho] / 2, the unbiased variance over a prompt's draws y ~ q of
    rho = log prior + log e - log pi; its mean over draws is (rho - mean)^2 / 2 x n / (n - 1).

    Zero, with its gradient, where rho = log Z(c) for every outcome that q can draw: at the target,
    for any q, and so without importance ratios. On-policy its gradient is `rloo`'s, draw for draw:
    unbiased for that of KL(pi, p*), in nats. For draws of the prior it is that of the log-variance
    divergence Var_q[log pi - log p*] / 2, unbiased too; draws of earlier steps (`replay`), or an
    update after the first of a step (`epochs`), make q the mixture of all that drew. Later epochs
    keep the first one's mean: at the target that is still no error.

    Evidence zero makes rho infinite and raises `ObjectiveError`, and so does a single draw.

    Source: Richter et al. 2020, arXiv 2010.10436, sections 3 and 4; off-policy, Nuesken and Richter
    2021, arXiv 2005.05409.
    """

    name = "vargrad"

    Settings = VarGradConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.epochs = self.settings.epochs
        if self.on_policy and self.epochs == 1:
            self.divergence = "KL(policy, target)"

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        refuse_hard_evidence(draws, "'vargrad' takes log evidence's variance, which is infinite")
        log_target_N = draws.log_prior_N + draws.log_evidence_N
        prompt_N = draws.completions.prompt_index_N
        count_N = count_by(prompt_N)[prompt_N]
        rho_N = log_target_N - log_prob_N
        others_N = mean_of_others(rho_N, prompt_N, objective=self.name)
        return {
            "log_target_N": log_target_N,
            "mean_N": others_N + (rho_N - others_N) / count_N,
            "unbiased_N": engine_ratio(draws) * count_N / (count_N - 1),
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        # The mean is a constant here: its own gradient times sum(rho - mean) = 0.
        rho_n = constants["log_target_N"] - token_log_prob_nL.sum(-1)
        return constants["unbiased_N"] * (rho_n - constants["mean_N"]).square() / 2

"""REINFORCE with a leave-one-out baseline and a bound on each advantage."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

import posteriori as po
from posteriori.objectives.base import Constants
from posteriori.objectives.score_function import mean_of_others, refuse_hard_evidence


class ClippedRLOOConfig(po.Strict):
    """`most`: the largest advantage of a draw, in nats."""

    most: float = Field(default=10.0, gt=0)


class ClippedRLOO(po.Objective[ClippedRLOOConfig]):
    """loss = -A log pi(y|c),  A = clip(rho - the mean rho of the prompt's other draws, most),
    rho = log prior + log e - log pi,  y ~ pi.

    Without the clipping the gradient is that of KL(pi, p*). At p* every rho is log Z, so A = 0:
    the target stays the fixed point, and one wild draw moves the policy no further than `most`.
    """

    name = "clipped_rloo"
    Settings = ClippedRLOOConfig

    def weigh(self, draws: po.Draws, log_prob_N: Tensor) -> Constants:
        refuse_hard_evidence(draws, "'clipped_rloo' averages the log-evidence of a group")
        rho_N = draws.log_prior_N + draws.log_evidence_N - log_prob_N
        group_N = draws.completions.prompt_index_N
        advantage_N = rho_N - mean_of_others(rho_N, group_N, objective=self.name)
        return {"advantage_N": advantage_N.clamp(-self.settings.most, self.settings.most)}

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        return -constants["advantage_N"] * token_log_prob_nL.sum(-1)

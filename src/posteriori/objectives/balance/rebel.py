"""REBEL: regression of relative log-ratios on relative rewards, against the policy that it was."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.types import Draws
from posteriori.errors import ObjectiveError
from posteriori.objectives.base import Constants
from posteriori.objectives.score_function import AnyProposal, refuse_hard_evidence

from .balance import BalanceConfig


class REBELConfig(BalanceConfig):
    """Settings of the objective "rebel".

    Args:
        proposal: what draws: "policy", as it stands, or "prior".
        epochs: updates made of one step's draws.
        eta: how far a step's regression goes: to policy^(1 - eta) x (prior x e)^eta, normalised.
        kl: with it the reward is log e - log(pi_t/prior), as published for language models; without
            it log e alone, and nothing holds the policy to the prior.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    eta: float = Field(default=1.0, gt=0)
    kl: bool = True


class REBEL(AnyProposal[REBELConfig]):
    """loss = eta/4 (h/eta - (R(y1) - R(y2)))^2,  h = log pi/pi_t (y1) - log pi/pi_t (y2),
    R = log prior + log e - log pi_t,  pi_t the policy before the step; a pair of draws each.

    A least-squares problem per step, whose solution for any draws that reach every outcome is
    pi_{t+1} ~ pi_t^(1 - eta) (prior e)^eta: mirror descent on KL(pi, p*), which ends at p* for
    0 < eta < 2, and is there after one exact step of eta = 1. The first update's expected gradient
    on-policy is that of KL(pi, p*), in nats, whatever eta is (hence the factor eta/4; the paper's
    loss has none); at p* each draw's gradient is zero. Draws of the prior or of earlier steps
    (`replay`) need no ratio and leave p* fixed.

    With `kl = false` R = log e: the exact steps multiply the policy by e^eta, again and again, and
    end with all mass on the completions of most evidence, as `rl` does.

    Neighbouring draws of a prompt are pairs: `num_samples` is even. Evidence zero makes R infinite
    and raises `ObjectiveError`.

    Source: Gao et al. 2024, arXiv 2404.16767, equation 5 and algorithm 1; the KL in the reward,
    section 5.1.
    """

    name = "rebel"
    rows_together: ClassVar[int] = 2

    Settings = REBELConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        its = self.settings
        self.epochs = its.epochs
        if not its.kl:
            self.fixed_point = "all mass on the completions of most evidence"
        elif self.on_policy and its.epochs == 1:
            self.divergence = "KL(policy, target)"

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        self._refuse_lone_draws(draws)
        refuse_hard_evidence(draws, f"'{self.name}' squares log evidence, which is infinite")
        reward_N = draws.log_evidence_N
        if self.settings.kl:
            reward_N = reward_N + draws.log_prior_N - log_prob_N
        return {"reward_N": reward_N, "log_before_N": log_prob_N}

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        eta, reward_n = self.settings.eta, constants["reward_N"]
        moved_n = token_log_prob_nL.sum(-1) - constants["log_before_N"]
        off_n = moved_n / eta - reward_n
        return eta / 4 * (off_n[::2] - off_n[1::2]).square()

    def _refuse_lone_draws(self, draws: Draws) -> None:
        prompt_N = draws.completions.prompt_index_N
        if len(prompt_N) % 2 or not torch.equal(prompt_N[::2], prompt_N[1::2]):
            raise ObjectiveError(
                f"'{self.name}' takes the draws of a prompt two by two, and their number is odd",
                hint="set num_samples to an even number",
            )

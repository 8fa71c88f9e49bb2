"""Proximal policy optimisation as in InstructGPT: a clipped surrogate and a learned critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.draw import lm_tokens
from posteriori.core.protocols import LanguageModel, TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws
from posteriori.objectives.base import Constants, Objective, token_log_policy
from posteriori.objectives.score_function import log_ratio

from .clipped import RatioFigures, clipped_surrogate
from .critic import Critic
from .gae import advantages


class PPOConfig(Strict):
    """Settings of the objective "ppo".

    Args:
        epochs: updates made of one step's draws.
        clip: epsilon; None: no clipping.
        gae_lambda: between 0 and 1; 1 leaves the gradient unbiased whatever the critic says.
        value_learning_rate: the critic's own rate, with the policy's decay.
        value_hidden: units of its hidden layer.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    epochs: int = Field(default=2, ge=1)
    clip: float | None = Field(default=0.2, gt=0)
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    value_learning_rate: float = Field(default=1e-2, gt=0)
    value_hidden: int = Field(default=64, ge=1)


class PPO(Objective[PPOConfig]):
    """loss = -sum_t min(r_t A_t, clip(r_t) A_t) + the critic's squared error / 2,  y ~ pi,
    with r_t = pi(y_t|c, y_<t) / the same when drawn, and A_t = GAE(lambda) of the rewards
    log prior_t - log pi_t (when drawn) on every token, plus log e on the last.

    The rewards of an outcome add up to rho = log p~ - log pi. With lambda = 1 and any critic, the
    expected gradient of a step's first update is that of KL(pi, p*); later updates of the step use
    token ratios and are biased, clipped or not. At p* and with a critic that says so, A_t = 0 for
    every token: p* is the fixed point whatever the settings, if lambda is 1 or the critic exact.
    In nats: beta is inside log e = r/beta, and the weight of the KL is 1; gamma is 1. Evidence zero
    raises `ObjectiveError`.

    The critic predicts rho of the whole outcome from each prefix; the rewards already in are known,
    and V_t = U_t - what is in is the usual value to go. So its answer at p* is one number per
    prompt, log Z(c). It reads the *prior's* hidden states, which never change: they are computed
    once per step (one pass more of the prior), several updates run no backbone for values, and
    nothing that the critic learns disturbs the policy. They are kept for the step: 4 bytes x N x L
    x D.

    Sources: InstructGPT, arXiv 2203.02155, appendix C; PPO, 1707.06347; GAE, 1506.02438.
    """

    name = "ppo"

    Settings = PPOConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.epochs = self.settings.epochs
        if self.epochs == 1 and self.settings.gae_lambda == 1:
            self.divergence = "KL(policy, target)"
        elif self.settings.gae_lambda < 1:
            self.fixed_point = "the target, as far as the critic is exact"
        self._figures: dict[str, float] = {}
        self._ratios = RatioFigures(self.settings.clip)

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        # In a tuple, because a prior that is a Module must not become part of this one.
        self._prior: tuple[LanguageModel] = (target.prior,)
        one = target.prior.completions(target.prompts[:1], [target.prior.eos_token_ids[:1]], 1)
        features_11D = target.prior.features(one)
        width = features_11D.shape[-1]
        self.critic = Critic(width, self.settings.value_hidden, seed, like=features_11D)

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = list(self.critic.parameters())
        return [{"params": parameters, "lr": self.settings.value_learning_rate}]

    def complete(self, target: Target, draws: Draws) -> Draws:  # noqa: ARG002 - of any target
        critics_pass = Cost(lm_tokens=lm_tokens(draws.completions))
        return replace(draws, cost=draws.cost + critics_pass)

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        rho_N = log_ratio(draws, log_prob_N, self.name)
        completions = draws.completions
        features_NLD = self._prior[0].features(completions)
        with torch.no_grad():
            predicted_NL = self.critic(features_NLD)
        advantage_NL = advantages(
            predicted_NL, rho_N, completions.lengths_N, self.settings.gae_lambda
        )
        mask_NL = completions.own_mask_NL
        self._figures = _value_figures(advantage_NL[mask_NL], predicted_NL[mask_NL])
        self._ratios = RatioFigures(self.settings.clip)
        return {
            "advantage_NL": advantage_NL,
            "return_NL": (advantage_NL + predicted_NL) * mask_NL,
            "log_drawn_NL": token_log_policy(draws),
            # 1, but for draws that an engine made for the policy.
            "ratio_N": (log_prob_N - draws.log_proposal_N).exp(),
            "features_NLD": features_NLD,
            "mask_NL": mask_NL,
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        mask_nL, advantage_nL = constants["mask_NL"], constants["advantage_NL"]
        log_ratio_nL = token_log_prob_nL - constants["log_drawn_NL"]
        self._ratios.add(log_ratio_nL, advantage_nL, mask_nL)
        gain_nL = clipped_surrogate(log_ratio_nL, advantage_nL, self.settings.clip)
        error_nL = (self.critic(constants["features_NLD"]) - constants["return_NL"]) * mask_nL
        return constants["ratio_N"] * (error_nL.square() / 2 - gain_nL).sum(-1)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        self.critic.set_unit(draws.log_prior_N + draws.log_evidence_N - log_prob_N)
        return super().observe(draws, log_prob_N) | self._figures | self._ratios.read()


def _value_figures(error_M: Tensor, predicted_M: Tensor) -> dict[str, float]:
    """Of the critic before the update, a token: half its mean squared error, and the share of the
    returns' variance that it explains (left out where they do not vary)."""
    figures = {"value_loss": float(error_M.square().mean() / 2)}
    variance = float((predicted_M + error_M).var(unbiased=False))
    if variance > 0:
        figures["explained_variance"] = 1 - float(error_M.var(unbiased=False)) / variance
    return figures

"""Group-relative policy optimisation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypeVar

from posteriori.core.settings.strict import Strict
from posteriori.core.types import Draws
from posteriori.errors import ConfigError
from posteriori.objectives.base import Constants, Objective, count_by, token_log_policy
from posteriori.objectives.score_function import mean_of_others, refuse_hard_evidence

from .clipped import RatioFigures, clipped_surrogate
from .kl_estimators import Estimator, kl_estimate


class GRPOConfig(Strict):
    """Settings of the objective "grpo", from the exact gradient to what was published.

    Args:
        scale: divide by the standard deviation of R in the group, as published. With the KL in the
            loss that sets beta aside: the policy ends near prior x exp(log e / std(log e)), the
            same for every beta. With the KL in the reward p* stays the fixed point, but near it the
            gradient is noise divided by its own size.
        kl: the estimator of KL(pi, prior).
        kl_in: whether R ("reward") or the loss ("loss") has it.
        kl_ratio: multiply the one in the loss by the token's ratio to the policy that drew, as TRL
            1.16 does by default.
        clip: epsilon; None: no clipping.
        epochs: updates made of one step's draws.
        aggregation: "sequence" sums over an outcome's tokens; "token_mean" divides by their number,
            as published, and is the gradient of no divergence.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    scale: bool = False
    kl: Estimator = "k1"
    kl_in: Literal["reward", "loss"] = "reward"
    kl_ratio: bool = False
    clip: float | None = Field(default=0.2, gt=0)
    epochs: int = Field(default=1, ge=1)
    aggregation: Literal["sequence", "token_mean"] = "sequence"


GroupT = TypeVar("GroupT", bound=GRPOConfig, default=GRPOConfig)


class GRPO(Objective[GroupT]):
    """loss = -sum_t min(r_t A, clip(r_t) A),  A = R - the mean of R over the prompt's other draws,
    R = log e - KL-hat,  r_t = pi(y_t|c, y_<t) / the same when it was drawn;  y ~ pi.

    As it comes, KL-hat = k1 = log pi - log prior, so R = log p~ - log pi: the gradient of the
    (first) update is exactly that of KL(pi, p*), and `rloo`'s. The settings lead from there to what
    is found in print; each says what it gives up. All in nats: beta is inside log e = r/beta, and
    the weight of the KL is 1. Draws come from the policy. Evidence zero raises `ObjectiveError`.

    Where the KL is decides where the policy ends. With k1 in the reward every draw has the same R
    at p*, so A = 0 there and p* stays, whatever `scale`, `aggregation`, `clip` and `epochs` are;
    they change the way to it. In the loss the KL has to balance E[A grad log pi], and no estimator
    has the gradient that does so at p* (docs/kl-estimators.md).

    Sources: DeepSeekMath, arXiv 2402.03300, section 4.1 (scale=True, kl="k3", kl_in="loss",
    aggregation="token_mean"); the KL by the ratio (kl_ratio=True): DeepSeek-V3.2, arXiv 2512.02556,
    section 3.1; Dr. GRPO, arXiv 2503.20783, section 3 (without scale and token mean).
    """

    name = "grpo"

    Settings = GRPOConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        its = self.settings
        if its.kl_ratio and its.kl_in == "reward":
            raise ConfigError(
                "kl_ratio is for an estimate of the KL in the loss, and kl_in is 'reward'",
                where="objective 'grpo'",
                hint='set kl_in = "loss", or remove kl_ratio',
            )
        self.epochs = its.epochs
        exact = its.kl == "k1" and its.kl_in == "reward"
        if not exact:
            where = "loss, by the ratio" if its.kl_ratio else its.kl_in
            self.fixed_point = _ELSEWHERE[its.kl, where]
        if exact and not its.scale and its.epochs == 1 and its.aggregation == "sequence":
            self.divergence = "KL(policy, target)"
        self._figures = RatioFigures(its.clip)

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - token by token
        refuse_hard_evidence(
            draws, f"'{self.name}' averages the log-evidence of a group, which is -inf"
        )
        self._figures = RatioFigures(self.settings.clip)
        drawn_NL = token_log_policy(draws)
        prior_NL = draws.token_log_prior_NL
        assert prior_NL is not None, "the prior has scored them"
        reward_N = draws.log_evidence_N
        if self.settings.kl_in == "reward":
            reward_N = reward_N - kl_estimate(self.settings.kl, drawn_NL, prior_NL).sum(-1)
        group_N = draws.completions.prompt_index_N
        others_N = mean_of_others(reward_N, group_N, objective=self.name)
        return {
            # 1, but for draws that an engine made for the policy.
            "ratio_N": (drawn_NL.sum(-1) - draws.log_proposal_N).exp(),
            "advantage_N1": (
                standardised(reward_N, group_N) if self.settings.scale else reward_N - others_N
            )[:, None],
            "log_drawn_NL": drawn_NL,
            "log_prior_NL": prior_NL,
            "mask_NL": draws.completions.own_mask_NL,
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        mask_nL, advantage_n1 = constants["mask_NL"], constants["advantage_N1"]
        log_ratio_nL = token_log_prob_nL - constants["log_drawn_NL"]
        self._figures.add(log_ratio_nL, advantage_n1, mask_nL)
        gain_nL = self.surrogate(token_log_prob_nL, log_ratio_nL, advantage_n1, mask_nL)
        if self.settings.kl_in == "loss":
            prior_nL = constants["log_prior_NL"]
            kl_nL = kl_estimate(self.settings.kl, token_log_prob_nL, prior_nL)
            gain_nL = gain_nL - (kl_nL * log_ratio_nL.exp() if self.settings.kl_ratio else kl_nL)
        if self.settings.aggregation == "token_mean":
            gain_nL = gain_nL / mask_nL.sum(-1, keepdim=True)
        return -constants["ratio_N"] * gain_nL.sum(-1)

    def surrogate(
        self, log_prob_nL: Tensor, log_ratio_nL: Tensor, advantage_n1: Tensor, mask_nL: Tensor
    ) -> Tensor:
        """What each token adds to the gain, without the KL, [n, L]; 0 beyond an outcome's end."""
        del log_prob_nL
        return clipped_surrogate(log_ratio_nL, advantage_n1, self.settings.clip) * mask_nL

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        return super().observe(draws, log_prob_N) | self._figures.read()


def standardised(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """(R - mean) / standard deviation in each group, [N]; 0 in a group whose R are all the same."""
    count_N = count_by(group_N)[group_N]

    def mean(values_N: Tensor) -> Tensor:
        return torch.zeros_like(reward_N).index_add(0, group_N, values_N)[group_N] / count_N

    def extreme(which: str) -> Tensor:
        start_N = torch.zeros_like(reward_N)
        return start_N.scatter_reduce(0, group_N, reward_N, which, include_self=False)[group_N]

    # Asked of the values themselves: the mean of equal numbers is off by a rounding error, which
    # divided by itself would pass for an advantage.
    differs_N = extreme("amax") > extreme("amin")
    centred_N = reward_N - mean(reward_N)
    deviation_N = mean(centred_N.square()).sqrt()
    return torch.zeros_like(reward_N).where(~differs_N, centred_N / deviation_N)


_EACH_TOKENS = "prior times exp(expected log-evidence), token by token: no later KL counts"

_ELSEWHERE = {
    ("k1", "loss"): "the completions of most evidence alone: the KL's gradient is zero on average",
    ("k2", "loss"): _EACH_TOKENS,
    ("k1", "loss, by the ratio"): _EACH_TOKENS,
    ("k3", "loss, by the ratio"): _EACH_TOKENS,
    ("k2", "loss, by the ratio"): "neither the target nor any known distribution",
    ("k3", "loss"): "prior divided by (1 - advantage), token by token, not the target",
    ("k2", "reward"): "neither the target nor any known distribution",
    ("k3", "reward"): "neither the target nor any known distribution",
}

"""Reward-weighted regression on draws from the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from posteriori.core.protocols import TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.objectives.base import Constants, policy_figures
from posteriori.objectives.offline import (
    Offline,
    controlled_loss,
    log_mean_by_prompt,
    per_prompt,
    weight_over,
)
from posteriori.objectives.running_z import RunningZ


class RWRConfig(Strict):
    """Settings of the objective "rwr".

    Args:
        normaliser: what is taken for Z: "running", the mean weight of all earlier draws, or "step",
            that of this step's.
        control_variate: whether pi/q is taken off the weights, which leaves their mean.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    normaliser: Literal["running", "step"] = "running"
    control_variate: bool = True


class RWR(Offline[RWRConfig]):
    """grad KL(p*, pi) = -E_prior[(e / Z) grad log pi],  Z(c) = E_prior[e].

    Minimises KL(p*, pi), in nats, by a weighted log-likelihood of the prior's draws, offline (for
    draws of any other known q the weight is p~/q). Draws that hard evidence rules out weigh
    nothing, and a prompt none of whose draws ever had any weight adds nothing. Z is not known, and
    `normaliser` says what stands for it, prompt by prompt:

    "running" (default): the mean weight over the draws of all earlier steps. Independent of the
    step's own draws, it scales a prompt's expected gradient by Z/Z-hat > 0 and moves no fixed
    point; with the exact Z it is that of KL(p*, pi). A prompt's first draws with weight, and
    replayed ones, have an own part in Z-hat: a bias of O(1/draws so far).

    "step": the mean weight over the step's own draws, so that the weights are a softmax of log e
    over them. It ends where the policy is the law of one of n draws that is resampled by weight,
    biased towards the prior: its KL from the target is at most log(1 + chi2(p*, prior) / n), with n
    the prompt's draws in a step. `replay` makes n larger.

    `control_variate` (the default) takes (pi/q) grad log pi off each draw's gradient, which has
    mean zero over q: what is left, e/Z - pi/prior, vanishes for every draw where the policy is the
    target, and the gradient's variance with it. Without it this is plain weighted regression, whose
    noise stays; with it, `dpg` from the prior's draws with b = 1. (Peters and Schaal 2007, ICML;
    Peng et al. 2019, arXiv 1910.00177; the control variate: Korbak et al. 2022, 2206.00761.)
    """

    name = "rwr"

    Settings = RWRConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.normaliser == "running":
            self.divergence = "KL(target, policy)"
        else:
            self.fixed_point = "the law of one of a step's draws, resampled by weight"

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        self.running_z = RunningZ(target)

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - imitation
        running = self.settings.normaliser == "running"
        log_z_N = self.running_z.before(draws) if running else log_mean_by_prompt(draws)
        scale_N = per_prompt(draws)
        return {
            "weight_N": scale_N * weight_over(draws.log_weight, log_z_N),
            "control_N": scale_N * (self.settings.control_variate & ~log_z_N.isneginf()),
            "log_proposal_N": draws.log_proposal_N,
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        return controlled_loss(token_log_prob_nL, constants)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        self.running_z.add(draws)
        return {**policy_figures(draws, log_prob_N), **self.running_z.figures(draws)}

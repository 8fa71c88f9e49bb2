"""What the objectives share that imitate the better draws of the prior."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from posteriori.core.tensors import distinct
from posteriori.core.types import Draws

from .base import Constants, Objective, SettingsT, count_by, log_sum_by


class Offline(Objective[SettingsT]):
    """loss = -W log pi(y|c),  W_i = N/P w_i / sum_j w_j  over the draws j of the same prompt.

    The mean over the N draws is the mean over their P prompts of a weighted log-likelihood, which
    is maximal where the policy has the law that the weights give to one draw. Draws come from the
    prior, whatever the policy does, so those of earlier steps are as good as new ones. A prompt
    none of whose draws has any weight adds nothing to the step.
    """

    replays: ClassVar[bool] = True
    needs_log_prob: ClassVar[bool] = False

    @property
    def on_policy(self) -> bool:
        return False

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - imitation
        share_N = weight_over(draws.log_weight, log_mean_by_prompt(draws))
        return {"weight_N": per_prompt(draws) * share_N}

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        return -constants["weight_N"] * token_log_prob_nL.sum(-1)


def controlled_loss(token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
    """-(W - C pi/q) log pi, pi/q held: C E_q[(pi/q) grad log pi] = 0, so the mean of the gradient
    is that of -W log pi, and where W = C pi/q for every draw it has no variance."""
    log_prob_n = token_log_prob_nL.sum(-1)
    ratio_n = (log_prob_n.detach() - constants["log_proposal_N"]).exp()
    return -(constants["weight_N"] - constants["control_N"] * ratio_n) * log_prob_n


def weight_over(log_w: Tensor, log_norm: Tensor) -> Tensor:
    """exp(log w - log norm), and 0 where w is 0, even where the norm is 0 with it."""
    return (log_w - log_norm).exp().where(~log_w.isneginf(), 0.0)


def log_mean_by_prompt(draws: Draws) -> Tensor:
    """log of the mean weight over the draws of the same prompt, at each draw; [N]."""
    prompt_N = draws.completions.prompt_index_N
    return (log_sum_by(draws.log_weight, prompt_N) - count_by(prompt_N).log())[prompt_N]


def per_prompt(draws: Draws) -> Tensor:
    """What makes of the mean over draws the mean over prompts of the means over their draws; [N].

    1 where every prompt has as many draws as the others.
    """
    prompt_N = draws.completions.prompt_index_N
    return len(draws) / len(distinct(prompt_N)) / count_by(prompt_N)[prompt_N]

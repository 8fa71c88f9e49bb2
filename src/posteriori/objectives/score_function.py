"""What the score-function objectives share: any proposal, importance ratios, baselines."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import TypeVar

from posteriori.core.settings.strict import Strict
from posteriori.core.types import Draws
from posteriori.errors import ObjectiveError

from .base import Constants, Objective, count_by


class AnyProposalConfig(Strict):
    """Settings of objectives whose draws may come from elsewhere.

    Args:
        proposal: what draws: "policy", as it stands, or "prior".

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    proposal: Literal["policy", "prior"] = "policy"


ProposalT = TypeVar("ProposalT", bound=AnyProposalConfig, default=AnyProposalConfig)


class AnyProposal(Objective[ProposalT]):
    """An objective whose draws may come from the policy, from the prior, or from earlier steps."""

    replays: ClassVar[bool] = True

    Settings = AnyProposalConfig

    @property
    def on_policy(self) -> bool:
        return self.settings.proposal == "policy"


class ScoreFunction(AnyProposal[ProposalT]):
    """loss = -(pi/q) A log pi(y|c), y ~ q, with the ratio pi/q and the advantage A constants.

    The gradient of its mean estimates -E_pi[A grad log pi]. Unbiased as long as the baseline inside
    A does not depend on the draw itself (Williams 1992). On-policy the ratio is 1; for draws from
    the prior or from earlier steps it is never clipped, so nothing is biased, and its variance is
    in the record (`ratio_variance`).
    """

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        ratio_N = (log_prob_N - draws.log_proposal_N).exp()
        return {"weight_N": ratio_N * self.advantage(draws, log_prob_N)}

    def advantage(self, draws: Draws, log_prob_N: Tensor) -> Tensor:
        """A of each draw, [N]: what is to be raised, less a baseline from the other draws."""
        raise NotImplementedError

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        return -constants["weight_N"] * token_log_prob_nL.sum(-1)


def log_ratio(draws: Draws, log_prob_N: Tensor, objective: str) -> Tensor:
    """rho = log prior + log evidence - log pi, float64 [N].

    E_pi[rho] = log Z - KL(pi, p*) is the ELBO. Raises `ObjectiveError` where a draw has evidence
    zero: KL(pi, p*) is then infinite, and no gradient step on samples makes it finite.
    """
    refuse_hard_evidence(draws, f"'{objective}' minimises KL(policy, target), which is infinite")
    return draws.log_prior_N + draws.log_evidence_N - log_prob_N


def refuse_hard_evidence(draws: Draws, why: str) -> None:
    """Raise `ObjectiveError` if the evidence of any draw is zero (log e = -inf)."""
    ruled_out = draws.log_evidence_N.isneginf()
    if bool(ruled_out.any()):
        row = int(ruled_out.nonzero()[0])
        raise ObjectiveError(
            f"{why}: the evidence rules out {int(ruled_out.sum())} of {len(draws)} draws, "
            f"the first {draws.texts[row][:60]!r}",
            hint="use an objective for hard evidence (dpg, fdpg with a forward divergence, rwr, "
            "raft), or soften the evidence (a Reward with a finite penalty)",
        )


def mean_of_others(values_N: Tensor, group_N: Tensor, *, objective: str) -> Tensor:
    """For each draw the mean over the other draws of its group; [N]. Needs two draws a group."""
    count_N = count_by(group_N)[group_N]
    if bool((count_N < 2).any()):
        raise ObjectiveError(
            f"'{objective}' compares the draws of a prompt with each other, and there is one",
            hint="set num_samples to 2 or more",
        )
    total_N = torch.zeros_like(values_N).index_add(0, group_N, values_N)[group_N]
    return (total_N - values_N) / (count_N - 1)

"""What the score-function objectives share: draws from the policy, and baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ObjectiveError
from ..types import Draws


class ScoreFunction:
    """loss_i = -A_i log pi(y_i|c_i), with the advantage A_i a constant: `weigh` computes it.

    The gradient of its mean estimates -E_pi[A grad log pi]. Unbiased as long as the baseline inside
    A_i does not depend on draw i itself (Williams 1992).
    """

    def loss(self, log_prob_n: Tensor, weight_n: Tensor) -> Tensor:
        return -weight_n * log_prob_n


def log_ratio(draws: Draws, objective: str) -> Tensor:
    """rho = log prior + log evidence - log pi, float64 [N], for draws from the policy itself.

    E_pi[rho] = log Z - KL(pi, p*) is the ELBO. Raises `ObjectiveError` where a draw has evidence
    zero: KL(pi, p*) is then infinite, and no gradient step on samples makes it finite.
    """
    refuse_hard_evidence(draws, f"'{objective}' minimises KL(policy, target), which is infinite")
    return draws.log_weight


def refuse_hard_evidence(draws: Draws, why: str) -> None:
    """Raise `ObjectiveError` if the evidence of any draw is zero (log e = -inf)."""
    ruled_out = draws.log_evidence_N.isneginf()
    if bool(ruled_out.any()):
        row = int(ruled_out.nonzero()[0])
        raise ObjectiveError(
            f"{why}: the evidence rules out {int(ruled_out.sum())} of {len(draws)} draws, "
            f"the first {draws.texts[row][:60]!r}",
            hint="soften the evidence (a Reward with a finite penalty, or a Likelihood above 0)",
        )


def mean_of_others(values_N: Tensor, group_N: Tensor, *, objective: str) -> Tensor:
    """For each draw the mean over the other draws of its group; [N]. Needs two draws a group."""
    num_groups = int(group_N.max()) + 1
    zeros = torch.zeros(num_groups, dtype=values_N.dtype, device=values_N.device)
    count_N = zeros.index_add(0, group_N, torch.ones_like(values_N))[group_N]
    if bool((count_N < 2).any()):
        raise ObjectiveError(
            f"'{objective}' compares the draws of a prompt with each other, and there is one",
            hint="set num_samples to 2 or more",
        )
    total_N = zeros.index_add(0, group_N, values_N)[group_N]
    return (total_N - values_N) / (count_N - 1)

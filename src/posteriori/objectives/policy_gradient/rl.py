"""Reward alone: the paper's negative control."""

from __future__ import annotations

from torch import Tensor

from posteriori.core.types import Draws
from posteriori.objectives.score_function import ScoreFunction, mean_of_others, refuse_hard_evidence


class RL(ScoreFunction):
    """grad E_pi[log e], with the leave-one-out mean of the prompt's other draws as baseline.

    No distribution is approximated: whatever the learning rate, the optimum puts all mass on the
    completions of highest reward, and the policy's entropy goes to zero with it (Korbak et al.
    2022, arXiv 2205.11275, section 2). Here to be compared with.
    """

    name = "rl"
    fixed_point = "all mass on the completions of highest reward"

    def advantage(self, draws: Draws, log_prob_N: Tensor) -> Tensor:  # noqa: ARG002 - see class
        refuse_hard_evidence(draws, "'rl' maximises the mean log-evidence, which is -inf")
        reward_N = draws.log_evidence_N
        others_N = mean_of_others(reward_N, draws.completions.prompt_index_N, objective=self.name)
        return reward_N - others_N

"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from torch import Tensor

from posteriori.core.types import Draws
from posteriori.objectives.score_function import ScoreFunction, log_ratio, mean_of_others


class RLOO(ScoreFunction):
    """grad KL(pi, p*) = -E_pi[(rho - b) grad log pi],  rho = log prior + log e - log pi.

    b is the mean of rho over the prompt's other draws, independent of the draw itself, so the
    gradient is unbiased (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740). At the fixed
    point rho = log Z(c) for every draw: the gradient's variance vanishes with its mean.
    """

    name = "rloo"
    divergence = "KL(policy, target)"

    def advantage(self, draws: Draws, log_prob_N: Tensor) -> Tensor:
        rho_N = log_ratio(draws, log_prob_N, self.name)
        prompt_N = draws.completions.prompt_index_N
        return rho_N - mean_of_others(rho_N, prompt_N, objective=self.name)

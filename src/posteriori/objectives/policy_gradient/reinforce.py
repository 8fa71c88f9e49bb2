"""REINFORCE on the KL-regularised reward, with a baseline from the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.types import Draws
from posteriori.objectives.score_function import ScoreFunction, log_ratio, mean_of_others


class Reinforce(ScoreFunction):
    """grad KL(pi, p*) = -E_pi[(rho - b) grad log pi],  rho = log prior + log e - log pi.

    b is the mean of rho over all other draws of the step. It leaves the draw itself out, so the
    gradient is unbiased; it mixes prompts, whose log Z differ, so `rloo` has less variance where
    there are several. rho is a constant of the loss: the term grad E_pi[-log pi] through rho
    vanishes in expectation. (Williams 1992; arXiv 2205.11275, section 3.)
    """

    name = "reinforce"
    divergence = "KL(policy, target)"

    def advantage(self, draws: Draws, log_prob_N: Tensor) -> Tensor:
        rho_N = log_ratio(draws, log_prob_N, self.name)
        one_group_N = torch.zeros_like(draws.completions.prompt_index_N)
        return rho_N - mean_of_others(rho_N, one_group_N, objective=self.name)

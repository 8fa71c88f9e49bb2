"""Pairs without a reference: completions are compared by the mean log-prob of their tokens."""

from __future__ import annotations

from torch import Tensor

from posteriori.core.types import Draws
from posteriori.objectives.base import Constants

from .pairs import Pairs, PairsT


class ByToken(Pairs[PairsT]):
    """A loss of h = score(y1) - score(y2), where `score` is of log pi(y|c)/|y| and has no prior."""

    def score_of_mean(self, mean_N: Tensor) -> Tensor:
        """The score, from the mean log-prob of a completion's tokens; [N]."""
        raise NotImplementedError

    def score(self, log_prob_N: Tensor, log_prior_N: Tensor, length_N: Tensor) -> Tensor:
        del log_prior_N
        return self.score_of_mean(log_prob_N / length_N)

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        return {**super().weigh(draws, log_prob_N), "length_N": draws.completions.lengths_N}

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        score_n = self.score_of_mean(token_log_prob_nL.sum(-1) / constants["length_N"])
        return self.pair_loss(score_n[::2] - score_n[1::2], constants["preferred_N"][::2])

"""Markov kernels over every outcome of one prompt, as matrices."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.types import Draws
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves


class KernelMatrix:
    """What `moves` does to each of the S outcomes of one prompt, with probabilities.

    The probability of a proposal is written down here, from the log-probs of q token by token;
    that of accepting it comes from `moves.log_accept`, so it is the library's.
    """

    def __init__(self, moves: SuffixMoves, outcomes: Completions) -> None:
        self.moves = moves
        with torch.no_grad():
            scored = moves.proposal.token_log_prob(outcomes).detach()
        self.states: Draws = moves.scored(replace(outcomes, token_log_prob_NL=scored))
        self.depth = outcomes.max_new_tokens
        self.number_S, self.order_S = self._number(outcomes).sort()

    def __len__(self) -> int:
        return len(self.states)

    def index(self, completions: Completions) -> Tensor:
        """Which outcome each completion is; [N]."""
        number_N = self._number(completions)
        place_N = torch.searchsorted(self.number_S, number_N)
        assert torch.equal(self.number_S[place_N], number_N)
        return self.order_S[place_N]

    def _number(self, completions: Completions) -> Tensor:
        """EOS is token 0, and so is the padding: no two outcomes have the same digits."""
        base = self.moves.proposal.vocab_size
        tokens_NL = completions.tokens_NL
        width = tokens_NL.shape[1]
        return (tokens_NL * base ** (self.depth - 1 - torch.arange(width))).sum(1)

    @cached_property
    def log_q_S(self) -> Tensor:
        return self.states.log_proposal_N

    def proposals(self, last: int = 0) -> Tensor:
        """P(y'|y) = sum_i [y' begins with y_1 .. y_i] q(y'[i:] | y'_1 .. y'_i) / |y|; [S, S].

        `last` = 1 makes the mutant that never redraws the last token alone.
        """
        completions = self.states.completions
        log_q_ST = completions.token_log_prob_NL
        assert log_q_ST is not None
        ids_ST = completions.tokens_NL.masked_fill(~completions.mask_NL, -1)
        places_S = (completions.lengths_N - last).clamp(min=1)
        matrix = torch.zeros(len(self), len(self), dtype=torch.float64)
        for start in range(int(places_S.max())):
            same_SS = (ids_ST[:, None, :start] == ids_ST[None, :, :start]).all(-1)
            from_here_S = log_q_ST[:, start:].sum(1).exp() * (completions.lengths_N > start)
            chosen_S = (start < places_S).double() / places_S
            matrix += chosen_S[:, None] * same_SS * from_here_S
        return matrix

    def matrix(self, t: float = 1.0, last: int = 0) -> Tensor:
        """K_t(y, y'), rejections on the diagonal."""
        num = len(self)
        old = self.states.select(torch.arange(num).repeat_interleave(num))
        new = self.states.select(torch.arange(num).repeat(num))
        accept = self.moves.log_accept(old, new, t).exp().clamp(max=1.0).view(num, num)
        moving = self.proposals(last) * accept
        return moving + torch.diag(1 - moving.sum(1))

    def law(self, t: float = 1.0) -> Tensor:
        """q(y) w(y)^t, normalised: written down from the target's own parts."""
        states, moves = self.states, self.moves
        log_p = moves.alpha * states.log_prior_N
        if moves.with_evidence:
            log_p = log_p + states.log_evidence_N
        tempered = t * log_p + (1 - t) * self.log_q_S if t else self.log_q_S
        return tempered.softmax(0)


def chi_squared(index_N: Tensor, law_S: Tensor, least: float = 10.0) -> float:
    """The p-value of draws against a law; cells that expect fewer than `least` go together."""
    law = law_S.double().numpy() / float(law_S.sum())
    count = np.bincount(index_N.numpy(), minlength=len(law))
    assert count[law == 0].sum() == 0, "a draw that cannot be"
    expected = law * count.sum()
    rare = expected < least
    observed = np.append(count[~rare], count[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    return float(
        stats.chisquare(observed[keep], expected[keep] * observed.sum() / expected.sum()).pvalue
    )


def draws_needed(law_S: Tensor, other_S: Tensor, rate: float = 1e-6) -> float:
    """The fewest draws (a power of two times 500) by which `chi_squared` distinguishes another law
    from this one, with both error rates at `rate`; infinite where a million are too few."""
    for num in (500 * 2**k for k in range(12)):
        expected, other = law_S.numpy() * num, other_S.numpy() * num
        rare = expected < 10
        expected = np.append(expected[~rare], expected[rare].sum())
        other = np.append(other[~rare], other[rare].sum())
        apart = ((other - expected) ** 2 / expected).sum()
        limit = stats.chi2.isf(rate, len(expected) - 1)
        if stats.ncx2.cdf(limit, len(expected) - 1, apart) < rate:
            return num
    return np.inf


class WithoutEos(SuffixMoves):
    """A mutant that does not count the EOS in |y|."""

    def log_accept(self, old: Draws, new: Draws, t: float) -> Tensor:
        right = super().log_accept(old, new, t)
        return right + _shorter(old) - _shorter(new)


def _shorter(draws: Draws) -> Tensor:
    lengths_N = draws.completions.lengths_N
    return (lengths_N - draws.completions.ended_N.long()).clamp(min=1).log() - lengths_N.log()


class WithoutLengths(SuffixMoves):
    """A mutant that leaves out |y| / |y'|."""

    def log_accept(self, old: Draws, new: Draws, t: float) -> Tensor:
        return super().log_accept(old, new, t) - _ratio(old, new)


class UpsideDown(SuffixMoves):
    """A mutant with |y'| / |y|."""

    def log_accept(self, old: Draws, new: Draws, t: float) -> Tensor:
        return super().log_accept(old, new, t) - 2 * _ratio(old, new)


class ProposalUpsideDown(SuffixMoves):
    """A mutant with q(y'[i:]) / q(y[i:]), which is right where both are the same alone."""

    def log_accept(self, old: Draws, new: Draws, t: float) -> Tensor:
        return super().log_accept(old, new, t) + 2 * (new.log_proposal_N - old.log_proposal_N)


MUTANTS = (WithoutEos, WithoutLengths, UpsideDown, ProposalUpsideDown)


def _ratio(old: Draws, new: Draws) -> Tensor:
    return old.completions.lengths_N.double().log() - new.completions.lengths_N.double().log()

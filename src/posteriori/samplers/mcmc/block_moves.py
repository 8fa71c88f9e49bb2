"""Metropolis-Hastings moves that redraw a few tokens inside a completion and keep its end."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.types import Draws

from .suffix_moves import SuffixMoves, suffix_tokens, where


class BlockMoves:
    """A kernel that leaves the target p~ = prior e invariant:

        i = floor(u (|y| - B)),   u ~ uniform, the same for all chains of a step,
        y' = (y_1 .. y_i, B fresh tokens ~ q(. | c, y_1 .. y_i), y_i+B+1 .. y_|y|),
        accept with probability min(1, p~(y') q(y[i:i+B]) / (p~(y) q(y'[i:i+B]))).

    |y| counts the EOS, which is never in the block; a block that draws one is rejected, so lengths
    stay as they are, and with them the probability of i. Texts of at most B tokens stay too. With
    `SuffixMoves`, which reach every length, the chain reaches everything. Given the places, which
    are drawn for all chains together so that all have the same to run, chains are independent.

    From a state of weight 0 every proposal is accepted, as by `SuffixMoves`.
    """

    def __init__(self, moves: SuffixMoves, block: int) -> None:
        self.moves, self.block = moves, block
        self.eos = torch.tensor(moves.target.prior.eos_token_ids)

    def step(self, states: Draws, generator: torch.Generator) -> tuple[Draws, Tensor]:
        """One move of every state: where they are now, and which proposals were accepted [N]."""
        uniform = torch.rand(1 + len(states), dtype=torch.float64, generator=generator)
        lengths_N = states.completions.lengths_N
        accept_N = torch.zeros(len(states), dtype=torch.bool, device=lengths_N.device)
        at_L = (lengths_N > self.block).nonzero()[:, 0]
        if not len(at_L):
            return states, accept_N
        old = states.select(at_L)
        start_L = (float(uniform[0]) * (old.completions.lengths_N - self.block)).long()
        new, possible_L = self.propose(old, start_L, generator)
        uniform_L = uniform[1:].to(at_L.device)[at_L]
        accept_N[at_L] = possible_L & (uniform_L.log() < self.log_accept(old, new, start_L))
        row_N = torch.zeros_like(lengths_N).index_put((at_L,), torch.arange(len(at_L)).to(at_L))
        return where(accept_N, new.select(row_N), states), accept_N

    def propose(
        self, states: Draws, start_N: Tensor, generator: torch.Generator
    ) -> tuple[Draws, Tensor]:
        """y' with what the target says of it, and whether it is one: False where a block ends."""
        old = states.completions
        cut = _cut(old, int(start_N.max()) + self.block)
        drawn = self.moves.proposal.resample_suffix(cut, start_N, generator)
        at_NL = torch.arange(old.tokens_NL.shape[1], device=start_N.device)
        inside_NL = (at_NL >= start_N[:, None]) & (at_NL < start_N[:, None] + self.block)
        width = old.tokens_NL.shape[1] - drawn.tokens_NL.shape[1]
        fresh_NL = torch.nn.functional.pad(drawn.tokens_NL, (0, width))
        ends_N = (torch.isin(fresh_NL, self.eos.to(fresh_NL.device)) & inside_NL).any(1)
        inside_NL &= ~ends_N[:, None]
        made = replace(old, tokens_NL=fresh_NL.where(inside_NL, old.tokens_NL))
        with torch.no_grad():
            log_q_NL = self.moves.proposal.token_log_prob(made)
        tokens = suffix_tokens(cut, drawn, start_N) + int(old.lengths_N.sum())
        scored = self.moves.scored(replace(made, token_log_prob_NL=log_q_NL), tokens)
        return scored, ~ends_N

    def log_accept(self, old: Draws, new: Draws, start_N: Tensor) -> Tensor:
        """log of p~(y') q(y[i:i+B]) / (p~(y) q(y'[i:i+B])); float64 [N]."""
        log_p_N = old.log_prior_N + old.log_evidence_N
        gain_N = new.log_prior_N + new.log_evidence_N - log_p_N
        back_N = self._of_block(old, start_N) - self._of_block(new, start_N)
        return (gain_N + back_N).masked_fill(log_p_N.isneginf(), torch.inf)

    def _of_block(self, states: Draws, start_N: Tensor) -> Tensor:
        """log q of the block's own tokens; [N]."""
        log_q_NL = states.completions.token_log_prob_NL
        assert log_q_NL is not None
        at_NB = start_N[:, None] + torch.arange(self.block, device=start_N.device)
        return log_q_NL.gather(1, at_NB).sum(1)


def _cut(completions: Completions, length: int) -> Completions:
    """As outcomes of at most `length` tokens: what lies beyond has not been written yet."""
    log_q_NL = completions.token_log_prob_NL
    return replace(
        completions,
        tokens_NL=completions.tokens_NL[:, :length],
        lengths_N=completions.lengths_N.clamp(max=length),
        ended_N=completions.ended_N & (completions.lengths_N <= length),
        max_new_tokens=length,
        token_log_prob_NL=None if log_q_NL is None else log_q_NL[:, :length],
    )

"""Metropolis-Hastings moves that redraw the end of a completion; many states in one batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.cost import counted
from posteriori.core.draw import draw, lm_tokens
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import LanguageModel
from posteriori.core.same_outcomes import check_same_outcomes
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws


class SuffixMoves:
    """A kernel that leaves p_t(y) = q(y) w(y)^t / Z_t invariant, for every t >= 0:

        i ~ uniform {0 .. |y|-1},   y' = (y_1 .. y_i, fresh tokens ~ q(. | c, y_1 .. y_i)),
        accept with probability min(1, (w(y') / w(y))^t |y| / |y'|).

    w = prior^alpha e / q, so t = 1 is the target (alpha = 1), and t = 0 the proposal q. |y| counts
    the EOS. The general ratio is p_t(y') q(y[i:]) |y| / (p_t(y) q(y'[i:]) |y'|): both completions
    begin with the same i tokens, so p_t(y) / q(y[i:]) = w(y)^t q(y_1 .. y_i), and the last factor
    cancels. The lengths do not: y' gives the way back the position i with probability 1/|y'|.

    From a state of weight 0 every proposal is accepted; it is left for good once a state with
    weight is found. A state is a row of `Draws`, whose `cost` adds up what was run.
    """

    def __init__(
        self,
        target: Target,
        proposal: LanguageModel,
        *,
        alpha: float = 1.0,
        with_evidence: bool = True,
    ) -> None:
        check_same_outcomes(target.prior, proposal, target.prompts, "proposal")
        self.target, self.proposal = target, proposal
        self.alpha, self.with_evidence = alpha, with_evidence

    def start(
        self,
        num_samples: int,
        generator: torch.Generator,
        prompts: tuple[Prompt, ...] | None = None,
    ) -> Draws:
        """y ~ q, `num_samples` per prompt."""
        return draw(self.target, self.proposal, num_samples, generator, prompts)

    def log_weight(self, states: Draws) -> Tensor:
        """log w(y) = alpha log prior(y) + log e(y) - log q(y); float64 [N], nats."""
        log_w_N = self.alpha * states.log_prior_N - states.log_proposal_N
        return log_w_N + states.log_evidence_N if self.with_evidence else log_w_N

    def log_accept(self, old: Draws, new: Draws, t: float) -> Tensor:
        """log of (w(y') / w(y))^t |y| / |y'|; float64 [N]."""
        lengths = (
            old.completions.lengths_N.double().log() - new.completions.lengths_N.double().log()
        )
        if t == 0:
            return lengths
        log_w_N = self.log_weight(old)
        gain_N = self.log_weight(new) - log_w_N
        return t * gain_N.masked_fill(log_w_N.isneginf(), torch.inf) + lengths

    def step(self, states: Draws, t: float, generator: torch.Generator) -> tuple[Draws, Tensor]:
        """One move of every state: where they are now, and which proposals were accepted [N]."""
        lengths_N = states.completions.lengths_N
        uniform_2N = torch.rand(2, len(states), dtype=torch.float64, generator=generator)
        uniform_2N = uniform_2N.to(lengths_N.device)
        start_N = (uniform_2N[0] * lengths_N).long()
        proposed = self.propose(states, start_N, generator)
        accept_N = uniform_2N[1].log() < self.log_accept(states, proposed, t)
        return where(accept_N, proposed, states), accept_N

    def propose(self, states: Draws, start_N: Tensor, generator: torch.Generator) -> Draws:
        """y' with the same first `start_N` tokens, and what the target says of it."""
        drawn = self.proposal.resample_suffix(states.completions, start_N, generator)
        return self.scored(drawn, suffix_tokens(states.completions, drawn, start_N))

    def scored(self, drawn: Completions, tokens: int = 0) -> Draws:
        """Completions with log-probs under q, as states; `tokens` is what it took to make them."""
        assert drawn.token_log_prob_NL is not None, "states carry their log-probs under q"
        log_q_N = drawn.token_log_prob_NL.sum(-1)
        log_prior_N, cost = log_q_N, Cost(tokens)
        if self.proposal is not self.target.prior:
            log_prior_N = self.target.log_prior(drawn)
            cost += Cost(lm_tokens(drawn))
        log_e_N = reward_N = torch.zeros_like(log_q_N)
        if self.with_evidence:
            with counted() as spent:
                log_e_N, reward_N = self.target.score(drawn, log_prior_N)
            cost += spent.cost
        return Draws(drawn, log_q_N, log_prior_N, log_e_N, reward_N, cost)


def where(take_N: Tensor, new: Draws, old: Draws) -> Draws:
    """Row by row the new state or the old one; the costs add up."""
    row_N = torch.arange(len(old), device=take_N.device)
    both = Draws.concat([old, new])
    return both.select(torch.where(take_N, row_N + len(old), row_N))


def suffix_tokens(old: Completions, new: Completions, start_N: Tensor) -> int:
    """Tokens run to redraw suffixes: distinct prefixes, prompts and all, once; and the new ones."""
    key_DK, _ = old.distinct_prefixes(start_N)
    of_prompt_P = torch.tensor([len(ids) for ids in old.prompt_ids], device=start_N.device)
    prefixes = int(of_prompt_P[key_DK[:, 0]].sum() + key_DK[:, 1].sum())
    return prefixes + int((new.lengths_N - start_N).sum())


def without_cost(states: Draws) -> Draws:
    """The states, once their cost so far has been counted."""
    return replace(states, cost=Cost())

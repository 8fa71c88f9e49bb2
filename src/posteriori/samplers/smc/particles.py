"""The particles of a run of SMC, and the rows of the language models that they stand in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import LanguageModel, Rows, SteppingLM
from posteriori.errors import SamplingError

from .guidance import Guided, NextTokenTwist
from .resampling import Choices

_LEAST_LIVE = 0.8
"""Rows that hold no particle are dropped when fewer than this share are in use: moving the cache
costs about as much as a fifth of a batch costs in one step."""


@dataclass
class Particles:
    """N = G x K particles, population by population; [N] or [N, T], log-probs in nats.

    `log_w_N` is the weight since the last resampling, -inf in places that belong to no particle;
    `log_psi_N` is the twist of the prefix so far, less what is withheld (`candidates.Drawn`).
    """

    parent_N: Tensor
    tokens_NT: Tensor
    lengths_N: Tensor
    ended_N: Tensor
    live_N: Tensor
    log_q_NT: Tensor
    log_p_NT: Tensor
    log_psi_N: Tensor
    log_w_N: Tensor
    log_evidence_N: Tensor
    reward_N: Tensor
    withheld_N: Tensor

    @classmethod
    def start(cls, parent_N: Tensor, there_N: Tensor, length: int, one_lm: bool) -> Particles:
        """All at the empty prefix; with one language model log p and log q are one tensor."""
        num, device = len(parent_N), parent_N.device
        float_N = torch.zeros(num, dtype=torch.float64, device=device)
        log_q_NT = float_N[:, None].repeat(1, length)
        return cls(
            parent_N,
            torch.zeros(num, length, dtype=torch.long, device=device),
            torch.zeros(num, dtype=torch.long, device=device),
            torch.zeros(num, dtype=torch.bool, device=device),
            there_N.clone(),
            log_q_NT,
            log_q_NT if one_lm else log_q_NT.clone(),
            float_N,
            float_N.masked_fill(~there_N, -torch.inf),
            float_N.clone(),
            float_N.clone(),
            float_N.clone(),
        )

    def keep(self, ancestor_N: Tensor) -> None:
        """Particle n goes on from what particle `ancestor_N[n]` was."""
        one_lm = self.log_p_NT is self.log_q_NT
        for each in fields(self):
            setattr(self, each.name, vars(self)[each.name][ancestor_N])
        if one_lm:
            self.log_p_NT = self.log_q_NT

    def weigh(self, at: Tensor | slice, log_ratio_L: Tensor | float, log_psi_L: Tensor) -> None:
        """w *= ratio psi / (psi before)."""
        before_L = self.log_w_N[at]
        after_L = before_L + log_ratio_L + log_psi_L - self.log_psi_N[at]
        # Weight 0 stays 0, whatever comes after: the difference of two -inf is not a number.
        self.log_w_N[at] = after_L.where(before_L > -torch.inf, -torch.inf)
        self.log_psi_N[at] = log_psi_L

    def completions(
        self,
        at: Tensor | slice,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[tuple[int, ...]],
        decode: Callable[[list[list[int]]], list[str]],
    ) -> Completions:
        """The text so far of particles `at`."""
        lengths_N = self.lengths_N[at]
        width = int(lengths_N.max())
        return Completions(
            prompt_set=tuple(prompts),
            prompt_ids=tuple(prompt_ids),
            prompt_index_N=self.parent_N[at],
            tokens_NL=self.tokens_NT[at, :width],
            lengths_N=lengths_N,
            ended_N=self.ended_N[at],
            max_new_tokens=self.tokens_NT.shape[1],
            decode=decode,
            token_log_prob_NL=self.log_q_NT[at, :width],
        )


def stepping(lm: LanguageModel) -> SteppingLM:
    """`lm`, if it can be run token by token. Raises `SamplingError`."""
    if not isinstance(lm, SteppingLM):
        raise SamplingError(
            f"{type(lm).__name__} cannot be run token by token, which smc needs",
            hint="use another sampler, or give it stepping(), as core.protocols.SteppingLM says",
        )
    return lm


class CacheSlots:
    """Cache slots: which row of the language models holds each live particle.

    Rows of particles that have ended, or have no descendants, are where new copies go: a particle
    with children leaves its row to the first of them, and only the others' caches are copied.
    """

    def __init__(self, proposal: Rows, prior: Rows, there_N: Tensor) -> None:
        self.proposal, self.prior = proposal, prior
        self.row_N = there_N.cumsum(0) - 1
        self.num_rows = int(there_N.sum())

    def rows_of(self, at: Tensor | slice) -> Tensor | None:
        """The rows of particles `at`, if these are fewer than all rows: a copy of the logits is
        saved where every row is in use."""
        row_L = self.row_N[at]
        return row_L if len(row_L) < self.num_rows else None

    def logits(self, at: Tensor | slice) -> Tensor:
        """The prior's logits of particles `at`, [L, V]."""
        row_L, logits_RV = self.row_N[at], self.prior.logits_RV
        in_order = len(row_L) == len(logits_RV) and bool((row_L.diff() == 1).all())
        return logits_RV if in_order else logits_RV[row_L]

    def draw(self, choices: Choices, at: Tensor | slice) -> tuple[Tensor, Tensor]:
        """A token for particles `at` from their rows of the proposal, and its log-prob."""
        row_L, logits_RV = self.rows_of(at), self.proposal.logits_RV
        if row_L is not None:
            return choices.tokens(logits_RV[row_L])
        token_R, log_q_R = choices.tokens(logits_RV)
        return token_R[self.row_N[at]], log_q_R[self.row_N[at]]

    def guided(
        self, at: Tensor | slice, next_token_twist: NextTokenTwist, guidance: float
    ) -> tuple[Guided, Tensor]:
        """Next tokens of the prior's rows, guided, and which of these rows are those of `at`."""
        row_L, logits_RV = self.rows_of(at), self.prior.logits_RV
        if row_L is None:
            return Guided(logits_RV, next_token_twist, guidance), self.row_N[at]
        place_L = torch.arange(len(row_L), device=row_L.device)
        return Guided(logits_RV[row_L], next_token_twist.select(row_L), guidance), place_L

    def log_prob(self, rows: Rows, at: Tensor | slice, token_L: Tensor) -> Tensor:
        """log softmax(logits)[token] for particles `at`, float64 [L]."""
        row_L, logits_RV = self.row_N[at], rows.logits_RV
        chosen_L = logits_RV[row_L, token_L].double()
        return chosen_L - logits_RV.logsumexp(-1).double()[row_L]

    def hidden(self, at: Tensor | slice) -> Tensor:
        return self.prior.hidden_RD[self.row_N[at]]

    def extend(self, at: Tensor | slice, token_L: Tensor) -> None:
        token_R = token_L.new_zeros(self.num_rows)
        token_R[self.row_N[at]] = token_L
        self._each(lambda rows: rows.extend(token_R))

    def tidy(self, live_N: Tensor) -> None:
        """Drop rows that hold no particle, if they are many."""
        if int(live_N.sum()) < _LEAST_LIVE * self.num_rows:
            self.follow(torch.arange(len(live_N), device=live_N.device), live_N)

    def follow(self, ancestor_N: Tensor, live_N: Tensor) -> None:
        """Rows for the particles that are live after resampling."""
        live_L = live_N.nonzero()[:, 0]
        source_L = self.row_N[ancestor_N[live_L]]
        in_order_L, order_L = source_L.sort(stable=True)
        stays_L = torch.ones_like(in_order_L, dtype=torch.bool)
        stays_L[1:] = in_order_L[1:] != in_order_L[:-1]
        moving = order_L[~stays_L]
        free_R = torch.ones(self.num_rows, dtype=torch.bool, device=live_N.device)
        free_R[source_L] = False
        free = free_R.nonzero()[:, 0][: len(moving)]
        beyond = self.num_rows + torch.arange(len(moving) - len(free), device=live_N.device)
        row_L = source_L.clone()
        row_L[moving] = torch.cat([free, beyond])
        index_R = torch.arange(self.num_rows + len(beyond), device=live_N.device)
        index_R[row_L] = source_L
        if len(live_L) < _LEAST_LIVE * len(index_R):
            index_R, row_L = source_L, torch.arange(len(live_L), device=live_N.device)
        if len(moving) or len(index_R) != self.num_rows:
            self._each(lambda rows: rows.keep(index_R))
        self.num_rows = len(index_R)
        self.row_N = self.row_N.clone()
        self.row_N[live_L] = row_L

    def _each(self, act: Callable[[Rows], None]) -> None:
        act(self.prior)
        if self.proposal is not self.prior:
            act(self.proposal)


@contextlib.contextmanager
def cache_slots(
    prior: LanguageModel,
    proposal: LanguageModel,
    prompts: Sequence[Prompt],
    parent_N: Tensor,
    there_N: Tensor,
    length: int,
    hidden: bool,
) -> Generator[CacheSlots]:
    """Rows of the prior, and of the proposal where it is another language model."""
    parent_R = parent_N[there_N]
    with contextlib.ExitStack() as stack:
        p = stack.enter_context(stepping(prior).stepping(prompts, parent_R, length, hidden))
        q = p
        if proposal is not prior:
            q = stack.enter_context(stepping(proposal).stepping(prompts, parent_R, length))
        yield CacheSlots(q, p, there_N)

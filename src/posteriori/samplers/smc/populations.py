"""Twisted SMC over tokens: G populations of particles, all of them in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.cost import counted
from posteriori.core.journal.plain_data import storable
from posteriori.core.numerics import ess
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import LanguageModel
from posteriori.core.same_outcomes import check_same_outcomes
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws
from posteriori.errors import SamplingError

from .guidance import NextTokenTwist
from .lookahead import Lookahead
from .particles import CacheSlots, Particles, cache_slots
from .resampling import Choices, Scheme
from .twists import Prefixes, Twist

_UNSTEERED, _STEERED = 0.5, 0.0


@dataclass(frozen=True)
class Plan:
    """What a run does, whatever its populations."""

    target: Target
    proposal: LanguageModel
    twist: Twist
    resampling: Scheme
    ess_threshold: float | None = None
    guidance: float = 0.9
    lookahead: int = 0

    def __post_init__(self) -> None:
        target = self.target
        check_same_outcomes(target.prior, self.proposal, target.prompts, "proposal")

    @property
    def steers(self) -> bool:
        """Whether the twist changes what is drawn, and not only what is kept."""
        return self.proposal is self.target.prior and self.guidance > 0 and self.twist.reads_hidden

    @property
    def threshold(self) -> float:
        """The share of effective particles below which is resampled; see `SMC`."""
        if self.ess_threshold is not None:
            return self.ess_threshold
        return _STEERED if self.steers else _UNSTEERED


@storable
@dataclass
class StepTrace:
    """All particles at their t-th token: what `fit_twist` learns from.

    Particles `at_L` have drawn `token_L` where the prior's state was `hidden_LD`; the others had
    ended before. `log_base_N` is their weight, with Z-hat so far, without psi_t: that of what had
    ended before with its evidence. Those that end now (`ends_L`) have found evidence `log_e_L`.
    `ancestor_N` is of the resampling after it, `log_evidence_N` 0 for those that go on.
    """

    hidden_LD: Tensor
    token_L: Tensor
    at_L: Tensor
    ends_L: Tensor
    log_e_L: Tensor
    log_base_N: Tensor
    log_evidence_N: Tensor
    ancestor_N: Tensor


class Populations:
    """Population g: `size_G[g]` particles that continue prompt `parent_G[g]`. They take steps

        y_t ~ q,   w *= prior(y_t) psi_t / (psi_t-1 q(y_t)),   psi_0 = 1,   psi_T = e;
        where ESS < threshold x size: Z-hat *= mean w, resample, w = 1

    with q the proposal; where that is the prior and psi_t is known of every token beforehand
    (`Twist.next_token_twist`), q = prior (1 - guidance + guidance psi_t / E_prior[psi_t]),

    until every particle has ended (`run`). Those that end early stay in the pool, with the twist
    that `Twist.of_ended` gives them until the others have ended too. `pinned` holds one outcome a
    population: its first particle takes these tokens and is its own ancestor (conditional SMC).
    """

    def __init__(
        self,
        plan: Plan,
        prompts: Sequence[Prompt],
        parent_G: Tensor,
        size_G: Tensor,
        choices: Choices,
        pinned: Completions | None = None,
    ) -> None:
        self.plan, self.prompts, self.choices = plan, prompts, choices
        self.size_G, self.width = size_G, int(size_G.max())
        self.length = plan.target.max_new_tokens
        self.pinned_GT = None if pinned is None else _padded(pinned, self.length)
        self.one_lm = plan.proposal is plan.target.prior
        self.there_N = (torch.arange(self.width, device=size_G.device) < size_G[:, None]).flatten()
        parent_N = parent_G.repeat_interleave(self.width)
        self.guided = plan.steers
        self.lookahead: Lookahead | None = None
        if plan.lookahead and self.one_lm and not self.guided and pinned is None:
            self.lookahead = Lookahead(plan.target, plan.lookahead)
        self.from_prior = self.one_lm and not self.guided and self.lookahead is None
        self.p = Particles.start(parent_N, self.there_N, self.length, self.from_prior)
        self.log_z_G = torch.zeros(len(size_G), dtype=torch.float64, device=size_G.device)
        self.eos = torch.tensor(plan.target.prior.eos_token_ids, device=size_G.device)
        self.cost = Cost()
        self.next_token_twist: Callable[[float], NextTokenTwist] | None = None
        self.step_traces: list[StepTrace] = []
        self.token_features_VD: Tensor | None = None
        self.prompt_ids: tuple[tuple[int, ...], ...] = ()

    def run(self, trace: bool = False, on_step: Callable[[int], None] | None = None) -> Draws:
        """All particles as draws, with log w = log Z-hat so far + log w since."""
        plan, p = self.plan, self.p
        with cache_slots(
            plan.target.prior,
            plan.proposal,
            self.prompts,
            p.parent_N,
            self.there_N,
            self.length,
            plan.twist.reads_hidden,
        ) as rows:
            self.next_token_twist = plan.twist.next_token_twist(rows.prior)
            self.token_features_VD = rows.prior.token_features_VD if trace else None
            self.prompt_ids = rows.prior.prompt_ids
            self._tokens(sum(len(ids) for ids in self.prompt_ids))
            for t in range(self.length):
                changed = self._step(rows, t)
                if on_step:
                    on_step(t + 1)
                if changed or plan.threshold >= 1:
                    self._resample(rows)
                if not bool(p.live_N.any()):
                    break
            p.weigh(slice(None), 0.0, p.log_evidence_N)
        return self._draws()

    def _step(self, rows: CacheSlots, t: int) -> bool:
        """One token a live particle, and what it weighs; False where all weigh as before."""
        p = self.p
        live_L = p.live_N.nonzero()[:, 0]
        at = slice(None) if len(live_L) == len(p.live_N) else live_L
        next_token_twist = self._next_token_twist(t)
        token_L, log_q_L, log_p_L = self._draw(rows, at, live_L, t, next_token_twist)
        p.tokens_NT[at, t], p.lengths_N[at] = token_L, t + 1
        p.log_q_NT[at, t], p.log_p_NT[at, t] = log_q_L, log_p_L
        self._tokens(len(live_L))
        hidden_LD = None if self.token_features_VD is None else rows.hidden(live_L)

        log_psi_L = torch.zeros_like(log_q_L)
        ends_L = torch.isin(token_L, self.eos)
        done_L = torch.ones_like(ends_L) if t + 1 == self.length else ends_L
        some_done = bool(done_L.any())
        if some_done:
            p.ended_N[live_L[ends_L]] = True
            log_psi_L[done_L] = self._finish(live_L[done_L])
        twisted_L = None
        if not bool(done_L.all()):
            on = live_L[~done_L] if some_done else at
            on_token_L = token_L[~done_L] if some_done else token_L
            if next_token_twist is not None:
                twisted_L = next_token_twist.of(rows.row_N[on], on_token_L)
            self._go_on(rows, on, on_token_L)
            if next_token_twist is None:
                twisted_L = self._twist(rows, on)
            if twisted_L is not None:
                log_psi_L[~done_L] = twisted_L
            if self.lookahead is not None:
                log_psi_L[~done_L] -= p.withheld_N[on]
        if hidden_LD is not None:
            log_ratio_L = log_p_L - log_q_L
            self._record(hidden_LD, token_L, live_L, done_L, log_psi_L, log_ratio_L)
        if self.from_prior and twisted_L is None and not bool(log_psi_L.any()):
            return False
        p.weigh(at, log_p_L - log_q_L, log_psi_L)
        return True

    def _draw(
        self,
        rows: CacheSlots,
        at: Tensor | slice,
        live_L: Tensor,
        t: int,
        next_token_twist: NextTokenTwist | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The t-th token of the live particles, with log q and log p of it."""
        if self.guided and next_token_twist is not None:
            q, place_L = rows.guided(at, next_token_twist, self.plan.guidance)
            token_L = self._pinned(live_L, t, self.choices.guided(q)[place_L])
            return token_L, *q.log_prob(place_L, token_L)
        if self.lookahead is not None:
            return self._looked_ahead(self.lookahead, rows, at, live_L)
        token_L, log_q_L = rows.draw(self.choices, at)
        if self.pinned_GT is not None:
            token_L = self._pinned(live_L, t, token_L)
            log_q_L = rows.log_prob(rows.proposal, at, token_L)
        log_p_L = log_q_L if self.from_prior else rows.log_prob(rows.prior, at, token_L)
        return token_L, log_q_L, log_p_L

    def _looked_ahead(
        self, lookahead: Lookahead, rows: CacheSlots, at: Tensor | slice, live_L: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        p = self.p
        cost_L = p.withheld_N[at] - (p.log_p_NT[at] - p.log_q_NT[at]).sum(-1)
        with counted() as spent:
            drawn, log_p_L = lookahead.draw(
                rows.logits(at), self._completions(at), cost_L, self.choices
            )
        self.cost += spent.cost
        lost_L = drawn.log_w_L.isneginf()
        p.log_w_N[live_L[lost_L]] = -torch.inf
        p.withheld_N[live_L] += drawn.log_withheld_L
        return drawn.token_L, log_p_L - drawn.log_w_L.where(~lost_L, 0.0), log_p_L

    def _pinned(self, live_L: Tensor, t: int, token_L: Tensor) -> Tensor:
        """The first particle of a population takes the token that is given, if one is."""
        if self.pinned_GT is None:
            return token_L
        return token_L.where(live_L % self.width != 0, self.pinned_GT[live_L // self.width, t])

    def _record(
        self,
        hidden_LD: Tensor,
        token_L: Tensor,
        live_L: Tensor,
        done_L: Tensor,
        log_psi_L: Tensor,
        log_ratio_L: Tensor,
    ) -> None:
        """What `fit_twist` learns from, before the particles are weighed."""
        p = self.p
        log_base_N = p.log_w_N + self.log_z_G.repeat_interleave(self.width)
        log_base_N[live_L] += log_ratio_L - p.log_psi_N[live_L]
        log_e_N = p.log_evidence_N.index_fill(0, live_L, 0.0)
        itself_N = torch.arange(len(log_base_N), device=live_L.device)
        seen = (hidden_LD, token_L, live_L, done_L, log_psi_L.clone())
        self.step_traces.append(StepTrace(*seen, log_base_N, log_e_N, itself_N))

    def _finish(self, done_L: Tensor) -> Tensor:
        """Particles that have just ended: their evidence, and the twist that they wait with."""
        p, target = self.p, self.plan.target
        p.live_N[done_L] = False
        with counted() as spent:
            scores = target.score(self._completions(done_L), p.log_p_NT[done_L].sum(-1))
        self.cost += spent.cost
        p.log_evidence_N[done_L], p.reward_N[done_L] = scores
        return self.plan.twist.of_ended(scores.log_evidence)

    def _next_token_twist(self, t: int) -> NextTokenTwist | None:
        """psi of every row's next token, where the twist knows it."""
        if self.next_token_twist is None:
            return None
        next_token_twist = self.next_token_twist((self.length - t - 1) / self.length)
        if not next_token_twist.finite():
            raise self._no_twist()
        return next_token_twist

    def _go_on(self, rows: CacheSlots, at: Tensor | slice, token_L: Tensor) -> None:
        """Run the token of the others through the language models."""
        rows.tidy(self.p.live_N)
        rows.extend(at, token_L)

    def _twist(self, rows: CacheSlots, at: Tensor | slice) -> Tensor | None:
        """The twist of prefixes that are there already."""
        log_prior_L = self.p.log_p_NT[at].sum(-1)
        prefixes = Prefixes(
            self.plan.target, self._completions(at), log_prior_L, at, rows, self.choices
        )
        log_psi_L = self.plan.twist.log_psi(prefixes)
        self.cost += prefixes.cost
        if log_psi_L is not None and not bool((log_psi_L < torch.inf).all()):
            raise self._no_twist()
        return log_psi_L

    def _no_twist(self) -> SamplingError:
        return SamplingError(
            f"twist '{self.plan.twist.name}' is NaN or infinite for a prefix",
            hint="a twist is a finite number of nats, or -inf where there is no hope",
        )

    def _resample(self, rows: CacheSlots) -> None:
        """Where few particles carry the weight, and some still go on."""
        p, plan, width = self.p, self.plan, self.width
        log_w_GK = p.log_w_N.view(-1, width)
        poor_G = ess(log_w_GK) < plan.threshold * self.size_G
        due_G = p.live_N.view(-1, width).any(-1) & ~log_w_GK.isneginf().all(-1)
        if plan.threshold < 1:
            due_G &= poor_G
        if not bool(due_G.any()):
            return
        log_w_DK, size_D = log_w_GK[due_G], self.size_G[due_G]
        ancestor_DK = self.choices.ancestors(plan.resampling, log_w_DK, size_D)
        if self.pinned_GT is not None:
            ancestor_DK[:, 0] = 0
        self.log_z_G[due_G] += log_w_DK.logsumexp(-1) - size_D.double().log()
        ancestor_N = torch.arange(len(p.log_w_N), device=p.log_w_N.device)
        ancestor_GK = ancestor_N.view(-1, width)
        ancestor_GK[due_G] = ancestor_GK[due_G, :1] + ancestor_DK
        p.keep(ancestor_N)
        p.log_w_N.view(-1, width)[due_G] = 0.0
        p.log_w_N[~self.there_N] = -torch.inf
        if self.step_traces:
            self.step_traces[-1].ancestor_N = ancestor_N
        if bool(p.live_N.any()):
            rows.follow(ancestor_N, p.live_N)

    def _draws(self) -> Draws:
        p, at = self.p, self.there_N
        completions = self._completions(at)
        width = completions.tokens_NL.shape[1]
        group_N = torch.arange(len(self.size_G), device=at.device).repeat_interleave(self.width)
        return Draws(
            completions=completions,
            log_proposal_N=p.log_q_NT[at].sum(-1),
            log_prior_N=p.log_p_NT[at].sum(-1),
            log_evidence_N=p.log_evidence_N[at],
            reward_N=p.reward_N[at],
            cost=self.cost,
            token_log_prior_NL=p.log_p_NT[at, :width],
            log_weight_N=(p.log_w_N + self.log_z_G[group_N])[at],
            group_N=group_N[at],
        )

    def log_z(self) -> Tensor:
        """log Z-hat [G] = log mean w of each population."""
        last_G = self.p.log_w_N.view(-1, self.width).logsumexp(-1) - self.size_G.double().log()
        return self.log_z_G + last_G

    def _completions(self, at: Tensor | slice) -> Completions:
        return self.p.completions(at, self.prompts, self.prompt_ids, self.plan.target.prior.decode)

    def _tokens(self, num: int) -> None:
        self.cost += Cost(lm_tokens=num if self.one_lm else 2 * num)


def _padded(completions: Completions, length: int) -> Tensor:
    completions.check_outcomes(length)
    tokens_GL = completions.tokens_NL
    return torch.nn.functional.pad(tokens_GL, (0, length - tokens_GL.shape[1]))

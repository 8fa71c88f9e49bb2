"""Soft Q-learning from the prior, distilled into the policy token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.protocols import NextTokenLM, TrainableLM
from posteriori.core.seeds import generator as stream
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.tensors import distinct, split_evenly
from posteriori.core.types import Draws
from posteriori.objectives.base import Constants, Objective
from posteriori.objectives.lookahead import next_token_prior, next_token_view

from .soft_values import Known, Learner, SoftValues

_REPLAY_BYTES = 2**29
"""What is kept of earlier draws may take so much memory."""

_SMALL = 1e-6
"""Probability below which the tokens that are not among the choices are left out."""


class SoftQConfig(Strict):
    """Settings of the objective "soft_q".

    Args:
        lookahead: most probable next tokens of each prefix that the evidence is asked about.
        epochs: how often each draw is used, in the mean.
        batch_size: draws per update.
        value_epochs: how often the network for psi uses each draw.
        value_learning_rate: of that network.
        value_width: units of its hidden layer.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    lookahead: int = Field(default=128, ge=1)
    epochs: int = Field(default=8, ge=1)
    batch_size: int = Field(default=32, ge=1)
    value_epochs: int = Field(default=16, ge=1)
    value_learning_rate: float = Field(default=3e-3, gt=0)
    value_width: int = Field(default=64, ge=1)


class SoftQ(Objective[SoftQConfig]):
    """loss = sum_t KL(q(.|s_t) || pi(.|s_t)),  q(v|s) = prior(v|s) psi(s, v) / psi(s),  s ~ pi,
    with psi(s, v) = E_prior[e | s, v] learned: log psi is the soft Q-value at temperature 1.

    With the exact psi, q(.|s) is the target's own next-token distribution, so the loss is 0 at the
    target alone, and its gradient has no sampling noise but that of the prefixes: every draw says
    something of the whole vocabulary at each of its tokens, where a score function has one number
    per draw. psi is exact where an outcome ends. Elsewhere a small network has it, that reads the
    prior's hidden state, the token, and the evidence of the text if it ended there; it is fitted
    backwards, from each drawn token to psi of the prefix that it leads to
    (`soft_values.SoftValues`). Prefixes come from the policy's own draws, and those of earlier
    steps are used again: psi is the prior's, so no ratio is needed. Hard evidence is fine: psi = 0.

    `lookahead` is the number of most probable next tokens of each prefix that the evidence is asked
    about: lookahead x T calls per draw, T its tokens. Most of what is learned comes from there, if
    the evidence says something of texts that have not ended. Where it is too slow for that, use
    `rloo`.

    Sources: psi as the optimal twist, Zhao et al. 2024, arXiv 2404.17546, section 3; soft Q-values
    of the prior distilled or decoded, Zhou et al. 2025, 2502.20548; the per-token KL over the
    vocabulary, Amini et al. 2025, 2504.10637.
    """

    name = "soft_q"
    fixed_point = "the target, as far as the learned soft values are exact"
    replays: ClassVar[bool] = True
    needs_log_prob: ClassVar[bool] = False
    reads_choices = True
    first_change: ClassVar[float] = 2e-2

    Settings = SoftQConfig

    num_steps: Tensor

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        prior = next_token_prior(target, self.name, instead="rloo")
        # In a tuple, because a table is a Module and must not become part of this one.
        self._prior: tuple[NextTokenLM] = (prior,)
        self._target, self._seed = target, seed
        one = prior.completions(target.prompts[:1], [prior.eos_token_ids[:1]], 1)
        self._hidden = prior.features(one).shape[-1]
        token_VE = prior.token_features_VD
        device = token_VE.device
        values = SoftValues(
            self._hidden, token_VE, self.settings.value_width, stream(seed, "soft values")
        )
        eos = torch.tensor(prior.eos_token_ids, device=device)
        rate = self.settings.value_learning_rate
        # In a tuple: the policy's optimiser and its checks have no business with these parameters.
        self._learner = (Learner(values, rate, eos, target.max_new_tokens),)
        self._next: Learner | None = None
        self._batches: list[Tensor] = []
        self._num_fresh = 0
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))

    def default_replay(self, draws_per_step: int) -> int:
        """As many steps as fit in half a GiB, of whatever they keep per prefix."""
        choices = 1 + len(self._target.prior.eos_token_ids) + self.settings.lookahead
        per_prefix = 4 * self._hidden + 24 * choices
        per_step = per_prefix * self._target.max_new_tokens * draws_per_step
        return _REPLAY_BYTES // per_step

    def complete(self, target: Target, draws: Draws) -> Draws:
        self._num_fresh = len(draws)
        view = next_token_view(target, self._prior[0], draws, self.settings.lookahead)
        return replace(draws, attached={**draws.attached, **view})

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - values only
        completions = draws.completions
        known = Known.of(draws.attached, completions.mask_NL, completions.lengths_N)
        learner = self._learner[0]
        learner.set_scale(draws.log_evidence_N)
        random = stream(self._seed, "soft_q", int(self.num_steps))
        value_batches = self._some(len(draws), self.settings.value_epochs, random)
        self._next = learner.fitted(known, value_batches, random)
        self._batches = self._some(len(draws), self.settings.epochs, random)
        return {
            "choice_NLK": known.choice_NLK,
            "distinct_NLK": known.log_prior_NLK > -torch.inf,
            **self._shares(known, self._next),
        }

    def _shares(self, known: Known, learner: Learner) -> Constants:
        """q of each choice and of all other tokens together, and the weight of each prefix: 0 past
        an end, and where nothing that follows can have evidence. For draws in a batch only."""
        share_NLK = torch.zeros_like(known.log_prior_NLK)
        weight_NL = torch.zeros_like(share_NLK[..., 0])
        seen = distinct(torch.cat(self._batches))
        for rows in split_evenly(seen, self.settings.batch_size):
            some = known.rows(rows)
            posterior = learner.posterior(some)
            share_NLK[rows] = posterior.log_share_NLK.exp()
            weight_NL[rows] = (some.mask_NL & (posterior.log_psi_NL > -torch.inf)).double()
        kept_NL = known.log_prior_NLK.logsumexp(-1).exp()
        rest_NL = (1 - kept_NL).where(1 - kept_NL > _SMALL, 0.0)
        return {"share_NLK": share_NLK, "rest_NL": rest_NL, "weight_NL": weight_NL}

    def _some(self, num_draws: int, epochs: int, random: torch.Generator) -> list[Tensor]:
        """So many batches that each of the step's fresh draws would be used `epochs` times, of all
        draws that there are."""
        size = min(self.settings.batch_size, num_draws)
        number = max(1, epochs * self._num_fresh // size)
        return [torch.randperm(num_draws, generator=random)[:size] for _ in range(number)]

    def batches(self, draws: Draws) -> list[Tensor]:  # noqa: ARG002 - `weigh` has seen them
        return self._batches

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        """`token_log_prob_nL` is log pi of the choices, [n, L, K]."""
        log_pi_nLK = token_log_prob_nL
        share_nLK, rest_nL = constants["share_NLK"], constants["rest_NL"]
        kl_nL = (torch.xlogy(share_nLK, share_nLK) - share_nLK * log_pi_nLK).sum(-1)
        pi_nLK = log_pi_nLK.exp().where(constants["distinct_NLK"], 0.0)
        # Rounding may leave a little less than nothing for the rest.
        others_nL = (1 - pi_nLK.sum(-1)).clamp(min=_SMALL**2)
        kl_nL = kl_nL + torch.xlogy(rest_nL, rest_nL) - torch.xlogy(rest_nL, others_nL)
        return (constants["weight_NL"] * kl_nL).sum(-1)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        assert self._next is not None, "weigh() comes before"
        self._learner, self._next = (self._next,), None
        self.num_steps = self.num_steps + 1
        return {**super().observe(draws, log_prob_N), "value_loss": self._learner[0].loss}

    def get_extra_state(self) -> dict[str, Any]:
        return self._learner[0].state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._learner[0].load(state)

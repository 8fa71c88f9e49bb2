"""Distillation by the token: exact KLs over the vocabulary, and what they cost later tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.draw import lm_tokens
from posteriori.core.protocols import LanguageModel, NextTokenLM, TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws
from posteriori.errors import ConfigError, ObjectiveError
from posteriori.models.execution.vocabulary import vocabulary_log_prob
from posteriori.objectives.base import Constants, Objective
from posteriori.objectives.lookahead import next_token_prior
from posteriori.objectives.score_function import refuse_hard_evidence

from .token_line import TokenLine, over_others, prefix_ratio

_NOTHING = -1e4
"""A log-prob whose probability is 0 in float64."""


class DistilConfig(Strict):
    """Settings of the objective "distil".

    Args:
        mix: share of the forward KL(teacher, policy); 0 is the reverse KL(policy, target) alone.
        proposal: what draws: "policy", as it stands, or "teacher".
        gradient: "vocabulary", sums over all tokens; or "token", the drawn token alone, less the
            exact per-token baseline, which needs less memory and has more noise.
        horizon: "sequence", the gradient of the divergence of whole completions; or "token", which
            does not charge a token with what follows it.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    mix: float = Field(default=0.0, ge=0, le=1)
    proposal: Literal["policy", "teacher"] = "policy"
    gradient: Literal["vocabulary", "token"] = "vocabulary"
    horizon: Literal["sequence", "token"] = "sequence"


class Distil(Objective[DistilConfig]):
    """(1 - mix) KL(pi, p*) + mix KL(p*, pi), token by token:

        KL(pi, p*) = E_q[sum_t W_t d_t - W r],  d_t = sum_v pi(v|s_t) log pi(v|s_t)/b(v|s_t),
        KL(b, pi)  = E_q[sum_t V_t sum_v b(v|s_t) log b(v|s_t)/pi(v|s_t)],  s_t = (c, y_<t)

    b = prior^(1 - sum of weights) x the product of teacher^weight, token by token: the teacher for
    one `Teacher` of weight 1, the prior for none. r is the evidence that is no teacher's. W_t and
    V_t are pi(y_<t)/q(y_<t) and b(y_<t)/q(y_<t), 1 where pi or the teacher draws, never clipped.

    The gradient of d_t is exact over the vocabulary; how a token changes the prefixes after it
    comes by the score function, from what follows it alone, less the mean of the prompt's other
    draws at the same place. With gradient="token" d_t is the baseline of the drawn token's
    log-ratio: the same expectation without the sum over the vocabulary in the backward pass.

    The forward KL, draws by the teacher, and horizon="token" are for a target that is one teacher
    of weight 1. horizon="token" is what most trainers call on-policy distillation: every prefix
    counts as 1, and the gradient is that of no divergence; its only fixed point is the teacher.

    It keeps 8 bytes per draw, token and word of the vocabulary, and needs teachers with the
    prior's vocabulary. Hard evidence raises `ObjectiveError`.

    Sources: Agarwal et al. 2024, arXiv 2306.13649; the exact baseline, Oh et al. 2026, 2605.07865;
    prior^(1 - w) teacher^w with rewards, 2602.12125; the KL by the token, Amini et al. 2025,
    2504.10637.
    """

    name = "distil"
    needs_log_prob: ClassVar[bool] = False

    Settings = DistilConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        mix = self.settings.mix
        formula = {0.0: "KL(policy, target)", 1.0: "KL(target, policy)"}.get(
            mix, f"{1 - mix:g} KL(policy, target) + {mix:g} KL(target, policy)"
        )
        self.divergence = formula if self.settings.horizon == "sequence" else None
        self.reads_choices = self.settings.gradient == "vocabulary"
        self._kl = 0.0

    @property
    def on_policy(self) -> bool:
        return self.settings.proposal == "policy"

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        prior = next_token_prior(target, self.name, instead="rloo")
        line = TokenLine.of(target, prior, self.name)
        own = self.settings
        asked = {
            "mix above 0": own.mix > 0,
            "proposal='teacher'": own.proposal == "teacher",
            "horizon='token'": own.horizon == "token",
        }
        for name, given in asked.items():
            if given and not line.is_a_teacher:
                raise ConfigError(
                    f"{name} is for a target that is one Teacher of weight 1, with nothing beside "
                    "it",
                    where="objective 'distil'",
                    hint="leave the setting out: the reverse KL of whole completions is for every "
                    "target",
                )
        # In tuples, because tables are Modules and must not become part of this one.
        self._line = (line,)
        self._policy: tuple[NextTokenLM, ...] = ()

    def proposal(self, target: Target, policy: TrainableLM) -> LanguageModel:  # noqa: ARG002
        if not isinstance(policy, NextTokenLM):
            raise ObjectiveError(
                f"a {type(policy).__name__} does not say what tokens may come next",
                where="objective 'distil'",
                hint="use another objective, such as rloo",
            )
        self._policy = (policy,)
        return policy if self.on_policy else self._line[0].teacher.drawing

    def complete(self, target: Target, draws: Draws) -> Draws:  # noqa: ARG002 - `prepare` knows it
        """b of every token, and of the policy what does not need its gradient."""
        completions = draws.completions
        log_base_NLV = self._line[0].log_prob(completions)
        log_pi_NLV = vocabulary_log_prob(self._policy[0], completions)
        drawn_NL1 = completions.tokens_NL[..., None]
        attached = {
            "log_base_NLV": log_base_NLV,
            "log_pi_NL": log_pi_NLV.gather(-1, drawn_NL1)[..., 0],
            "kl_NL": _kl(log_pi_NLV, log_base_NLV),
        }
        cost = draws.cost + Cost(lm_tokens=lm_tokens(completions))
        return replace(draws, attached={**draws.attached, **attached}, cost=cost)

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - by the token
        refuse_hard_evidence(draws, f"'{self.name}' needs evidence above zero")
        own, completions = self.settings, draws.completions
        mask_NL, q_NL = completions.mask_NL, completions.token_log_prob_NL
        assert q_NL is not None, "draw() keeps them"
        log_base_NLV = draws.attached["log_base_NLV"]
        base_NL = log_base_NLV.gather(-1, completions.tokens_NL[..., None])[..., 0]
        pi_NL, kl_NL = draws.attached["log_pi_NL"], draws.attached["kl_NL"]
        if own.mix < 1:
            self._refuse_ruled_out(draws, kl_NL)
        kl_NL = kl_NL.where(mask_NL, 0.0)
        by_token = own.horizon == "token"
        before_NL, after_NL = prefix_ratio(pi_NL, q_NL, mask_NL, by_token)
        of_base_NL, of_base_after_NL = prefix_ratio(base_NL, q_NL, mask_NL, by_token)
        self._kl = float((before_NL * kl_NL).sum(-1).mean())
        slope_NL = torch.zeros_like(kl_NL)
        if not by_token:
            rest_N = self._line[0].rest(draws, base_NL)
            last_N1 = (completions.lengths_N - 1)[:, None]
            end_N1 = after_NL.gather(1, last_N1) * rest_N[:, None]
            later_NL = (before_NL * kl_NL).flip(-1).cumsum(-1).flip(-1) - before_NL * kl_NL
            later_NL = later_NL - end_N1
            slope_NL = later_NL - after_NL * over_others(later_NL, mask_NL, completions)
        if own.gradient == "token":
            slope_NL = slope_NL + after_NL * (pi_NL - base_NL - kl_NL)
        share = 1 - own.mix
        slope_NL = share * slope_NL.where(mask_NL, 0.0) if share else torch.zeros_like(slope_NL)
        if own.gradient == "token" and own.mix > 0:
            # b = pi/q leaves no noise where pi is the teacher.
            same_NL = of_base_NL * (pi_NL - q_NL).where(mask_NL, 0.0).exp()
            slope_NL = slope_NL - own.mix * (of_base_after_NL - same_NL).where(mask_NL, 0.0)
        found = {"slope_NL": slope_NL}
        if own.gradient == "vocabulary":
            # What the teacher rules out is left with nothing, as a number.
            found["log_base_NLV"] = log_base_NLV.clamp(min=_NOTHING)
            found["of_pi_NL"] = (1 - own.mix) * before_NL.where(mask_NL, 0.0)
            found["of_base_NL"] = own.mix * of_base_NL.where(mask_NL, 0.0)
        return found

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        """With gradient="vocabulary" `token_log_prob_nL` is log pi of the drawn token and of all
        tokens, [n, L, 1 + V]."""
        slope_nL = constants["slope_NL"]
        if self.settings.gradient == "token":
            return (slope_nL * token_log_prob_nL).sum(-1)
        log_pi_nL, log_pi_nLV = token_log_prob_nL[..., 0], token_log_prob_nL[..., 1:]
        log_base_nLV = constants["log_base_NLV"]
        # Past an end there is nothing, and what stands there must not touch the gradient.
        there_nL = (constants["of_pi_NL"] != 0) | (constants["of_base_NL"] != 0)
        log_pi_nLV = log_pi_nLV.where(there_nL[..., None], 0.0)
        log_base_nLV = log_base_nLV.where(there_nL[..., None], 0.0)
        total_nL = slope_nL * log_pi_nL.where(slope_nL != 0, 0.0)
        if self.settings.mix < 1:
            total_nL = total_nL + constants["of_pi_NL"] * _kl(log_pi_nLV, log_base_nLV)
        if self.settings.mix > 0:
            total_nL = total_nL + constants["of_base_NL"] * _kl(log_base_nLV, log_pi_nLV)
        return total_nL.sum(-1)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        return {**super().observe(draws, log_prob_N), "kl_by_token": self._kl}

    def _refuse_ruled_out(self, draws: Draws, kl_NL: Tensor) -> None:
        wrong_NL = ~kl_NL.isfinite() & draws.completions.mask_NL
        if bool(wrong_NL.any()):
            row, at = (int(place) for place in wrong_NL.nonzero()[0])
            raise ObjectiveError(
                "'distil' minimises KL(policy, target), which is infinite: after "
                f"{at} tokens of {draws.texts[row][:60]!r} a model rules tokens out",
                hint="use teachers without top_k and top_p, or mix = 1 with proposal = 'teacher'",
            )


def _kl(log_p_NLV: Tensor, log_q_NLV: Tensor) -> Tensor:
    """sum_v p log p/q, [N, L]; a token without p adds nothing."""
    log_ratio_NLV = (log_p_NLV - log_q_NLV).where(log_p_NLV > -torch.inf, 0.0)
    return (log_p_NLV.exp() * log_ratio_NLV).sum(-1)

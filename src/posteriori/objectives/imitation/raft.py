"""RAFT: log-likelihood on the draws that were accepted, or on the best of n."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.tensors import distinct
from posteriori.core.types import Draws
from posteriori.errors import ConfigError
from posteriori.objectives.base import Constants, count_by
from posteriori.objectives.offline import Offline, controlled_loss, per_prompt

from .acceptance import Acceptance, KnownBound, OverZ, RunningBound

_HEADROOM = 2.0


class RAFTConfig(Strict):
    """Settings of the objective "raft".

    Args:
        select: which draws are imitated: those that are accepted as draws of the target, or the
            best of a prompt's.
        proposal: what draws: "prior", or "policy", as it stands.
        max_log_evidence: log M, nats, of the prior's draws; left out, what the evidence states, or
            the most that was seen.
        headroom: M / Z-hat of the policy's draws, above 1; left out, 2.
        control_variate: whether the policy's draws count by their chance to be accepted, less its
            mean; left out, they do.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    select: Literal["accept", "best_of_n"] = "accept"
    proposal: Literal["prior", "policy"] = "prior"
    max_log_evidence: float | None = None
    headroom: float | None = Field(default=None, gt=1)
    control_variate: bool | None = None


class RAFT(Offline[RAFTConfig]):
    """loss = -(mean over a prompt's accepted draws of log pi),  P(y accepted) = min(1, w(y) / M).

    By `proposal`, with w = p~(y|c) / q(y|c):

    "prior": w = e. What is accepted are exact draws from the target. With n draws per prompt the
    expected gradient is [1 - (1 - Z(c)/M)^n] grad KL(p*, pi) for each prompt: that of KL(p*, pi),
    in nats, times the probability that any draw is accepted. M is `max_log_evidence`, in nats:
    log M = r_max / beta for a reward. It need not be given for likelihoods and constraints, where
    M = 1. A draw above a given bound raises `SamplingError`.

    For a reward without that bound, M is the largest e that any draw of the prompt has had so far,
    this step's included. While larger ones are still to come the policy is drawn towards
    p_M ~ prior min(e, M), whose KL from the target is E_p*[log max(1, e/M)] + log(Z_M/Z); that
    bias goes as M grows.

    "policy": w = p~ / pi and M = a Z-hat(c), with a = `headroom` > 1 (2 unless it is given). What
    is accepted follows min(p~, a Z-hat pi), and with Z-hat = Z the policy that imitates it stands
    still at the target alone: elsewhere w > M would have to hold wherever the policy has mass,
    but E_pi[w] = Z < M. At the target one draw in a is accepted, where of the prior's it may be one
    in thousands: the better the policy, the more draws it learns from.

    `select="best_of_n"` takes each prompt's draw of the largest e instead (ties share): it ends at
    the law of the best of n, F(r)^n - F(r-)^n with F the cdf of e under the prior, which is not the
    target, and in RAFT's own form, with `proposal="policy"`, it collapses: each step imitates the
    best of the policy's own draws, and all mass ends on the largest e that is found. (Dong et al.
    2023, arXiv 2304.06767; acceptance with a running bound as in Liu et al. 2023, arXiv
    2309.06657; of a proposal that overshoots, quasi-rejection: Eikema et al. 2022, 2112.05702.)
    """

    name = "raft"

    Settings = RAFTConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        chosen = self.settings
        if chosen.select == "best_of_n":
            self.fixed_point = (
                "all mass on the completions of highest evidence"
                if self.on_policy
                else "the law of the prior's best of n draws"
            )
        if chosen.max_log_evidence is not None and (self.on_policy or chosen.select != "accept"):
            raise ConfigError(
                "max_log_evidence bounds what the prior's draws are accepted by: best_of_n accepts "
                "none, and the policy's are accepted by p~ / pi",
                hint='leave it out, or set select to "accept" and proposal to "prior"',
            )
        accepts_the_policys = self.on_policy and chosen.select == "accept"
        for setting, value in (
            ("headroom", chosen.headroom),
            ("control_variate", chosen.control_variate),
        ):
            if value is not None and not accepts_the_policys:
                raise ConfigError(
                    f"{setting} is about how the policy's draws are accepted, and none is here",
                    hint='leave it out, or set select to "accept" and proposal to "policy"',
                )
        self.headroom = _HEADROOM if chosen.headroom is None else chosen.headroom
        self.controlled = accepts_the_policys and chosen.control_variate is not False

    @property
    def on_policy(self) -> bool:
        return self.settings.proposal == "policy"

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        self.accept = self._acceptance(target) if self.settings.select == "accept" else None

    def _acceptance(self, target: Target) -> Acceptance:
        if self.on_policy:
            return OverZ(target, self.headroom)
        known = self.settings.max_log_evidence
        known = target.max_log_evidence if known is None else known
        return RunningBound(target) if known is None else KnownBound(known)

    def draw(
        self,
        target: Target,
        policy: TrainableLM,
        prompts: Sequence[Prompt],
        num_samples: int,
        generator: torch.Generator,
    ) -> Draws:
        drawn = super().draw(target, policy, prompts, num_samples, generator)
        if self.accept is None:
            return replace(drawn, log_weight_N=best(drawn))
        if self.controlled:
            return self.accept.expected(drawn)
        uniform_N = torch.rand(len(drawn), dtype=torch.float64, generator=generator)
        return self.accept(drawn, uniform_N.to(drawn.log_evidence_N.device))

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        if not self.controlled:
            return super().weigh(draws, log_prob_N)
        assert isinstance(self.accept, OverZ)
        z_known_N = ~self.accept.running_z.before(replace(draws, log_weight_N=None)).isneginf()
        scale_N = per_prompt(draws)
        return {
            "weight_N": scale_N * self.headroom * draws.log_weight.exp(),
            "control_N": scale_N * z_known_N,
            "log_proposal_N": draws.log_proposal_N,
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        if self.controlled:
            return controlled_loss(token_log_prob_nL, constants)
        return super().loss(token_log_prob_nL, constants)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        accepted_N = ~draws.log_weight.isneginf()
        chance_N = draws.log_weight.exp() if self.controlled else accepted_N.double()
        prompt_N = draws.completions.prompt_index_N
        observed = (
            {} if self.accept is None else self.accept.observe(replace(draws, log_weight_N=None))
        )
        return {
            **super().observe(draws, log_prob_N),
            **observed,
            "accepted_share": float(chance_N.mean()),
            "prompts_without_accepted": len(distinct(prompt_N))
            - len(distinct(prompt_N[accepted_N])),
        }


def best(draws: Draws) -> Tensor:
    """log of each draw's share in being its prompt's best, [N]; ties share, and none is best
    where all are ruled out."""
    prompt_N, log_e_N = draws.completions.prompt_index_N, draws.log_evidence_N
    none_P = log_e_N.new_full((int(prompt_N.max()) + 1,), -torch.inf)
    top_P = none_P.scatter_reduce(0, prompt_N, log_e_N, "amax")
    is_best_N = (log_e_N == top_P[prompt_N]) & ~log_e_N.isneginf()
    ties_N = count_by(prompt_N[is_best_N], len(top_P))[prompt_N]
    return torch.where(is_best_N, -ties_N.clamp(min=1).log(), -torch.inf)

"""RAFT: log-likelihood on the draws that were accepted, or on the best of n."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..config import Strict
from ..errors import ConfigError, SamplingError
from ..protocols import TrainableLM
from ..target import Target
from ..types import Draws, Prompt
from .base import count_by, policy_figures
from .offline import Offline

_ROUNDING = 1e-9
"""By so many nats log e may exceed a bound that was computed elsewhere."""


class RAFT(Offline):
    """loss = -(mean over a prompt's accepted draws of log pi),  P(y accepted) = e(c, y) / M.

    Draws from the prior that are accepted so are exact draws from the target. With n draws a
    prompt the expected gradient is [1 - (1 - Z(c)/M)^n] grad KL(p*, pi) for each prompt: that of
    KL(p*, pi), in nats, times the probability that any draw is accepted. M is `max_log_evidence`,
    in nats: log M = r_max / beta for a reward. It need not be given for likelihoods and
    constraints, where M = 1.

    For a reward without that bound, M is the largest e that any draw of the prompt has had so far,
    this step's included. While larger ones are still to come the policy is drawn towards
    p_M ~ prior min(e, M), whose KL from the target is E_p*[log max(1, e/M)] + log(Z_M/Z); that
    bias goes as M grows. A draw above a given bound raises `SamplingError`.

    `select="best_of_n"` takes each prompt's draw of the largest e instead (ties share): it ends at
    the law of the best of n, F(r)^n - F(r-)^n with F the cdf of e under the prior, which is not the
    target, and in RAFT's own form, with `proposal="policy"`, it collapses: each step imitates the
    best of the policy's own draws, and all mass ends on the largest e that is found. (Dong et al.
    2023, arXiv 2304.06767; acceptance with a running bound as in Liu et al. 2023, arXiv
    2309.06657.)
    """

    name = "raft"

    class Settings(Strict):
        """`select`: which draws are imitated; `proposal`: who draws for best_of_n."""

        select: Literal["accept", "best_of_n"] = "accept"
        proposal: Literal["prior", "policy"] = "prior"
        max_log_evidence: float | None = None

    _top_P: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.select == "best_of_n":
            self.fixed_point = (
                "the law of the prior's best of n draws"
                if self.settings.proposal == "prior"
                else "all mass on the completions of highest evidence"
            )
            if self.settings.max_log_evidence is not None:
                raise ConfigError("max_log_evidence bounds acceptance; best_of_n accepts none")
        elif self.settings.proposal == "policy":
            raise ConfigError(
                "the policy's draws, accepted with probability e/M, follow policy x e: the policy "
                "would collapse onto the largest evidence, step by step",
                hint='leave proposal at "prior"',
            )

    @property
    def on_policy(self) -> bool:
        return self.settings.proposal == "policy"

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        self._target = target
        self._bound = self.settings.max_log_evidence
        if self._bound is None:
            self._bound = target.max_log_evidence
        none_yet_P = torch.full((len(target.prompts),), -torch.inf, dtype=torch.float64)
        self.register_buffer("_top_P", none_yet_P)

    def draw(
        self,
        target: Target,
        policy: TrainableLM,
        prompts: Sequence[Prompt],
        num_samples: int,
        generator: torch.Generator,
    ) -> Draws:
        drawn = super().draw(target, policy, prompts, num_samples, generator)
        if self.settings.select == "best_of_n":
            return replace(drawn, log_weight_N=best(drawn))
        uniform_N = torch.rand(len(drawn), dtype=torch.float64, generator=generator)
        return self.accepted(drawn, uniform_N.to(drawn.log_evidence_N.device))

    def accepted(self, drawn: Draws, uniform_N: Tensor) -> Draws:
        """The same draws, of weight 1 where u < e/M and 0 elsewhere."""
        log_e_N = drawn.log_evidence_N
        if self._bound is None:
            bound_N = self._top_with(drawn)[self._target.prompt_positions(drawn.completions)]
        else:
            bound_N = torch.full_like(log_e_N, self._bound)
            self._refuse_above(drawn)
        # A prompt all of whose draws are ruled out compares with NaN, and accepts none.
        accepted_N = uniform_N.log() < log_e_N - bound_N
        weight_N = torch.zeros_like(log_e_N).masked_fill(~accepted_N, -math.inf)
        return replace(drawn, log_weight_N=weight_N)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        if self._bound is None:
            self._top_P = self._top_with(draws)
        accepted_N = ~draws.log_weight.isneginf()
        prompt_N = draws.completions.prompt_index_N
        return {
            **policy_figures(draws, log_prob_N),
            "accepted_share": float(accepted_N.double().mean()),
            "prompts_without_accepted": len(prompt_N.unique()) - len(prompt_N[accepted_N].unique()),
        }

    def _top_with(self, draws: Draws) -> Tensor:
        """The largest log e so far of each of the target's prompts, these draws included."""
        at_N = self._target.prompt_positions(draws.completions)
        return self._top_P.to(at_N.device).scatter_reduce(0, at_N, draws.log_evidence_N, "amax")

    def _refuse_above(self, draws: Draws) -> None:
        assert self._bound is not None
        above_N = draws.log_evidence_N > self._bound + _ROUNDING
        if bool(above_N.any()):
            row = int(draws.log_evidence_N.argmax())
            raise SamplingError(
                f"log e = {float(draws.log_evidence_N[row]):.6g} of {draws.texts[row][:60]!r} is "
                f"above its bound of {self._bound:.6g}, so what is accepted does not follow the "
                "target",
                where="objective 'raft'",
                hint="set max_log_evidence to the largest log e there can be (the largest reward "
                "over beta), or leave it out for a running bound",
            )


def best(draws: Draws) -> Tensor:
    """log of each draw's share in being its prompt's best, [N]; ties share, and none is best
    where all are ruled out."""
    prompt_N, log_e_N = draws.completions.prompt_index_N, draws.log_evidence_N
    none_P = log_e_N.new_full((int(prompt_N.max()) + 1,), -torch.inf)
    top_P = none_P.scatter_reduce(0, prompt_N, log_e_N, "amax")
    is_best_N = (log_e_N == top_P[prompt_N]) & ~log_e_N.isneginf()
    ties_N = count_by(prompt_N[is_best_N], len(top_P))[prompt_N]
    return torch.where(is_best_N, -ties_N.clamp(min=1).log(), -torch.inf)

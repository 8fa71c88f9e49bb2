"""Rejection sampling: exact draws of the target, given a bound on its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from posteriori.core.estimates import combine
from posteriori.core.protocols import SteppingLM
from posteriori.core.settings.strict import Strict
from posteriori.core.tensors import ints
from posteriori.core.types import Draws, Estimate, Guarantee
from posteriori.distributed.exchange import is_shared_out
from posteriori.errors import ConfigError, SamplingError
from posteriori.samplers.base import Job, Sampler
from posteriori.samplers.smc.lookahead import next_tokens_checked
from posteriori.samplers.smc.looked_ahead import looked_ahead

from .acceptance_stream import accepted_draws, equal
from .rejection_control import rejection_control, starves

_PILOT = 128
"""Draws per prompt that say whether rejection alone would starve, and where the threshold is."""
_ROUNDING = 1e-9
"""Nats by which a log-weight may exceed a bound that was computed in another order."""


class RejectionConfig(Strict):
    """Settings of the sampler "rejection".

    Args:
        max_log_weight: log M in nats, a bound on log p~ - log proposal; left out, it is the bound
            that the target's evidence states.
        max_draws: draws of the proposal per prompt that are made at most.
        lookahead: next tokens that are checked where draws of the prior would starve, see
            `Rejection`; 0: never.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.RejectionConfig(max_log_weight=0.0).max_log_weight
        0.0
    """

    max_log_weight: float | None = None
    max_draws: int | None = Field(default=None, ge=1)
    lookahead: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"


class Rejection(Sampler[RejectionConfig]):
    """y ~ q, accepted with probability w(y)/M,  w = p~/q <= M;  Z-hat = M x acceptance rate.

    Exact: the draws are independent and of p*. With the prior as proposal w = e, and the evidence
    knows its bound: M = 1 for likelihoods and constraints, exp(max_reward / beta) for a `Reward`
    that states its `max_reward`. For any other proposal the bound is yours to give:
    `max_log_weight` = log M, in nats. About M/Z draws of q are made for each one that is accepted.

    Draws come in rounds until every prompt has as many as asked for, or `max_draws` per prompt have
    been made: a finding then says how many there are, and these are exact too. Z-hat is unbiased,
    though a prompt's trials stop at an acceptance: it takes (k - 1)/(n - 1) for the k-th acceptance
    at trial n, and accepted/made where the budget ends first (`Accepted.log_rate`; Girshick,
    Mosteller and Savage 1946). So log Z-hat is a lower bound of log Z in expectation.

    Where a constraint can judge the beginning of a text, few draws of the prior may satisfy it.
    `lookahead` ("auto": 64 if such constraints are quick, as the ready-made ones are, and the prior
    is the proposal; 0: never) is the number of next tokens that are checked then before one is
    drawn. A pilot of such draws estimates Z; where M/Z draws of the prior for each one that is
    asked for are more than the budget, draws come from that locally constrained proposal instead,
    and are accepted and weighed by `rejection_control`. They are independent, satisfy the
    constraints, and are *properly weighted* instead of exact: `guarantee` and a finding say so.

    Raises `ConfigError` where no bound is known, and `SamplingError` where a draw has more weight
    than the bound: no weight is ever clipped, and what was accepted before is not returned.
    (von Neumann 1951.)
    """

    name = "rejection"
    guarantee: ClassVar[Guarantee] = "exact"

    Settings = RejectionConfig

    def run(self, job: Job) -> Draws:
        log_m = self._bound(job)
        most = self._next_tokens(job)
        if most:
            pilot = looked_ahead(job, most, _PILOT, job.target.prompts, (self.name, "pilot"))
            if starves(pilot, job, log_m, self.settings.max_draws):
                return rejection_control(job, pilot, most, log_m, self.settings.max_draws)
            job.keep(equal(pilot.select(slice(0, 0))))  # none of its draws, and their cost

        def within_bound(draws: Draws) -> Tensor:
            try:
                return log_accept(draws, log_m)
            except SamplingError:
                # What was accepted so far followed min(p~, M q), which is not the target.
                job.kept.clear()
                raise

        accepted = accepted_draws(job, self.name, within_bound, self.settings.max_draws)
        per_prompt: list[Estimate] = []
        for at, tried in enumerate(ints(accepted.tried_P)):
            log_rate, error = accepted.log_rate(at)
            per_prompt.append(Estimate(log_m + log_rate, error, "lower_bound", tried))
        log_z = combine(per_prompt, "lower_bound")
        return replace(accepted.draws, log_z=log_z, findings=accepted.findings)

    def _next_tokens(self, job: Job) -> int:
        """How many next tokens are checked where draws of the proposal alone would starve."""
        wanted = self.settings.lookahead
        if wanted == "auto" and (is_shared_out() or not isinstance(job.proposal, SteppingLM)):
            return 0
        if wanted and wanted != "auto" and job.proposal is not job.target.prior:
            raise ConfigError(
                "lookahead checks next tokens of the prior, and another proposal is given",
                where=f"sampler '{self.name}'",
                hint="leave out one of them",
            )
        return next_tokens_checked(job.target, job.proposal, wanted, self.name)

    def _bound(self, job: Job) -> float:
        """log M."""
        if self.settings.max_log_weight is not None:
            return self.settings.max_log_weight
        if job.proposal is not job.target.prior:
            raise ConfigError(
                "no bound is known on prior x evidence / proposal",
                where="sampler 'rejection'",
                hint="give max_log_weight (nats), draw from the prior, or use qrs, which needs no "
                "bound and says how far from the target it is",
            )
        if job.target.max_log_evidence is None:
            raise ConfigError(
                "no bound is known on the evidence",
                where="sampler 'rejection'",
                hint="write Reward(fn, beta, max_reward=...) or give max_log_weight (nats), or use "
                "qrs, which needs no bound and says how far from the target it is",
            )
        return job.target.max_log_evidence


def log_accept(draws: Draws, log_m: float) -> Tensor:
    """log w/M, [N]. Raises `SamplingError` where it is above 0."""
    log_ratio_N = draws.log_weight - log_m
    if bool((log_ratio_N <= _ROUNDING).all()):
        return log_ratio_N
    row = int(log_ratio_N.argmax())
    above = float(log_ratio_N[row])
    raise SamplingError(
        f"{draws.texts[row][:60]!r}, drawn for {str(draws.prompts[row])[:60]!r}, has log-weight "
        f"{log_m + above:.6g}, {above:.3g} nats above the bound of {log_m:.6g} (its reward is "
        f"{float(draws.reward_N[row]):.6g}); what was accepted so far does not follow the target",
        where="sampler 'rejection'",
        hint=f"give max_log_weight of at least {log_m + above:.6g}, or a reward's max_reward as "
        "the largest that its function can return",
    )

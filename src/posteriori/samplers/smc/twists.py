"""Twists: psi_t(y_1 .. y_t), a guess of the evidence still to come, that steers SMC on the way.

Any psi > 0 leaves the weights right; the best is psi_t = E_prior[e(c, y) | y_1 .. y_t], with which
every particle weighs the same. psi may be 0 only where no completion of the prefix has evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypeVar

from posteriori.core.completions import Completions
from posteriori.core.cost import counted
from posteriori.core.numerics import log_mean_exp
from posteriori.core.protocols import Rows
from posteriori.core.settings.combined import combined
from posteriori.core.settings.configured import Configured
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Cost
from posteriori.errors import ConfigError

from .guidance import NextTokenTwist
from .particles import CacheSlots
from .resampling import Choices

SettingsT = TypeVar("SettingsT", bound=Strict, default=Any)


@dataclass
class Prefixes:
    """L live prefixes of equal length, everything a twist may ask, and what asking costs."""

    target: Target
    completions: Completions
    log_prior_L: Tensor
    at: Tensor | slice
    cache_slots: CacheSlots
    choices: Choices
    cost: Cost = field(default_factory=Cost)


class Twist(Configured, Generic[SettingsT]):
    """The base class of twists: log psi_t of a prefix, a guess of the evidence still to come.

    Any psi > 0 leaves SMC's weights right; the best is psi_t = E_prior[e(c, y) | y_1 .. y_t], with
    which every particle weighs the same. psi may be 0 only where no completion of the prefix has
    evidence.

    Args:
        config: its settings, one `Settings`.
        settings: or the fields of `Settings`, as keywords.

    Raises:
        ConfigError: for a setting that is unknown, wrong, or given twice.

    Example:
        >>> from posteriori.samplers.smc.twists import EvidenceTwist
        >>> draws = po.sample(target, "smc", num_samples=8, twist=EvidenceTwist(temper=0.5))
        >>> len(draws)
        16
    """

    name: ClassVar[str]
    reads_hidden: ClassVar[bool] = False
    """Whether it needs the prior's hidden states: see `next_token_twist`."""
    settings: SettingsT
    """Its own settings, a `Settings`."""

    def __init__(self, *, config: SettingsT | None = None, **settings: Any) -> None:
        where = f"twist '{self.name}'"
        model: Any = self.Settings
        self.settings = combined(model, config, settings, "config", where)

    def log_psi(self, prefixes: Prefixes) -> Tensor | None:
        """float64 [L], nats; None stands for psi = 1. What it costs is added to `prefixes.cost`."""
        raise NotImplementedError

    def next_token_twist(self, rows: Rows) -> Callable[[float], NextTokenTwist] | None:  # noqa: ARG002
        """For a twist that knows psi_t of every next token before one is drawn: called with the
        share of the tokens that will be left then, it says log psi of all of them for what the
        prior's rows hold now. `log_psi` is not asked then. None for others."""
        return None

    def of_ended(self, log_evidence_L: Tensor) -> Tensor:
        """log psi of completions that wait for the others to end, when psi becomes e: on the scale
        of `log_psi`, so that what goes on and what has ended can be compared."""
        return log_evidence_L


class NoTwist(Twist[Strict]):
    """psi_t = 1 until the end: only the proposal's ratio weighs, and evidence 0 where it is met."""

    name = "none"

    def log_psi(self, prefixes: Prefixes) -> Tensor | None:  # noqa: ARG002
        return None

    def of_ended(self, log_evidence_L: Tensor) -> Tensor:
        return torch.zeros_like(log_evidence_L).where(log_evidence_L > -math.inf, -math.inf)


class FloorSettings(Strict):
    """Settings of twists that read the evidence of a prefix.

    Args:
        floor: log psi where the evidence found is 0. There may yet be some, so psi is above 0.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    floor: float = -1.0


class EvidenceTwistConfig(FloorSettings):
    """Settings of the twist "evidence".

    Args:
        floor: log psi where the evidence found is 0. There may yet be some, so psi is above 0.
        temper: the power of the evidence that psi is.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    temper: float = Field(default=1.0, ge=0)


class EvidenceTwist(Twist[EvidenceTwistConfig]):
    """psi_t = e(c, y_1 .. y_t)^temper: the text so far, judged as if it had ended here.

    Where e is 0, psi is exp(`floor`): there may yet come evidence.
    """

    name = "evidence"
    Settings = EvidenceTwistConfig

    def log_psi(self, prefixes: Prefixes) -> Tensor:
        with counted() as spent:
            scores = prefixes.target.score(prefixes.completions, prefixes.log_prior_L)
        log_e_L = scores.log_evidence
        prefixes.cost += spent.cost
        return (self.settings.temper * log_e_L).where(log_e_L > -math.inf, self.settings.floor)

    def of_ended(self, log_evidence_L: Tensor) -> Tensor:
        tempered_L = self.settings.temper * log_evidence_L
        return tempered_L.where(log_evidence_L > -math.inf, -math.inf)


class PrefixTwist(NoTwist):
    """psi_t = what the evidence says of a prefix: 0 where it cannot come right any more.

    For constraints that can judge a prefix: `Constraint(fn, prefix=may_still_hold)`. Raises
    `ConfigError` where no evidence of the target can.
    """

    name = "prefix"

    def log_psi(self, prefixes: Prefixes) -> Tensor:
        target, log_prior_L = prefixes.target, prefixes.log_prior_L
        with counted() as spent:
            log_psi_L = target.prefix_log_evidence(prefixes.completions, log_prior_L)
        if log_psi_L is None:
            raise ConfigError(
                "twist='prefix' needs evidence that can judge a prefix, and none of it can",
                hint="write Constraint(fn, prefix=may_still_hold), or use another twist",
            )
        prefixes.cost += spent.cost
        return log_psi_L


class RolloutsConfig(FloorSettings):
    """Settings of the twist "rollouts".

    Args:
        floor: log psi where the evidence found is 0. There may yet be some, so psi is above 0.
        num: completions that are drawn of each prefix.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    num: int = Field(default=4, ge=1)


class Rollouts(Twist[RolloutsConfig]):
    """psi_t = (1/num) sum_i e(c, y_1 .. y_t, rest_i), rest_i ~ prior: the best twist, by sampling.

    Costs num x (T - t) tokens a prefix. The particle keeps the value that was drawn for it, so the
    weights are right for any num.
    """

    name = "rollouts"
    Settings = RolloutsConfig

    def log_psi(self, prefixes: Prefixes) -> Tensor:
        num, target = self.settings.num, prefixes.target
        ended, log_prior_R, tokens = roll_out(prefixes, num)
        with counted() as spent:
            log_e_R = target.score(ended, log_prior_R).log_evidence
        log_e_L = log_mean_exp(log_e_R.view(-1, num))
        prefixes.cost += spent.cost + Cost(lm_tokens=tokens)
        return log_e_L.where(log_e_L > -math.inf, self.settings.floor)


def roll_out(prefixes: Prefixes, num: int) -> tuple[Completions, Tensor, int]:
    """`num` completions of each prefix, drawn from the prior, with their log prior, and how many
    tokens they took."""
    cache_slots, start = prefixes.cache_slots, prefixes.completions
    row_R = cache_slots.row_N[prefixes.at].repeat_interleave(num)
    rows = cache_slots.prior.branch(row_R)
    at_R = torch.arange(len(start), device=row_R.device).repeat_interleave(num)
    drawn, log_prior_R = start.select(at_R), prefixes.log_prior_L[at_R]
    eos = torch.tensor(prefixes.target.prior.eos_token_ids, device=row_R.device)
    tokens_RT = torch.nn.functional.pad(
        drawn.tokens_NL, (0, drawn.max_new_tokens - drawn.tokens_NL.shape[1])
    )
    lengths_R, ended_R = drawn.lengths_N.clone(), drawn.ended_N.clone()
    live_R = torch.arange(len(row_R), device=row_R.device)
    drawn_tokens = 0
    for t in range(start.tokens_NL.shape[1], drawn.max_new_tokens):
        token_R, log_p_R = prefixes.choices.tokens(rows.logits_RV)
        tokens_RT[live_R, t] = token_R
        log_prior_R[live_R] += log_p_R
        lengths_R[live_R] = t + 1
        drawn_tokens += len(live_R)
        ends_R = torch.isin(token_R, eos)
        ended_R[live_R] = ends_R
        if t + 1 == drawn.max_new_tokens or bool(ends_R.all()):
            break
        if bool(ends_R.any()):
            on = (~ends_R).nonzero()[:, 0]
            rows.keep(on)
            live_R, token_R = live_R[on], token_R[on]
        rows.extend(token_R)
    return (
        Completions(
            prompt_set=drawn.prompt_set,
            prompt_ids=drawn.prompt_ids,
            prompt_index_N=drawn.prompt_index_N,
            tokens_NL=tokens_RT,
            lengths_N=lengths_R,
            ended_N=ended_R,
            max_new_tokens=drawn.max_new_tokens,
            decode=drawn.decode,
        ),
        log_prior_R,
        drawn_tokens,
    )

"""Rewards as evidence: the KL-regularised RL target."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from typing_extensions import Unpack

from posteriori.core.completions import Completions
from posteriori.core.protocols import Columns, Scores
from posteriori.core.run.call_context import current_calls
from posteriori.core.types import Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import finite, in_short
from posteriori.errors import ConfigError, EvidenceError
from posteriori.evidence.calls.call import function_name, numbers
from posteriori.evidence.calls.caller import CallCounts, Caller
from posteriori.evidence.calls.settings import CallSettings, RewardKeywords, call_settings
from posteriori.evidence.shown import ShownEvidence

from .beta import check_beta, known_beta

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RewardLike: TypeAlias = "Callable[..., Any] | PreTrainedModel | str | Path"
"""A function, or a sequence-classification model with a single logit, or the path of one."""


class Reward(ShownEvidence):
    """A reward as evidence: with it the target is the optimum of KL-regularised RL.

        log e(c, y) = r(c, y) / beta,   r = sum_i w_i r_i

    p* maximises E_pi[r] - beta KL(pi, prior) (arXiv 2205.11275, section 3): a small beta follows
    the reward, a large one stays with the prior. Of several rewards the mean of each is logged as
    "reward/name".

    Args:
        fn: called as TRL's trainers call reward functions (`posteriori.evidence.calls.call`);
            returns a float per completion: -inf forbids, None says that the reward does not apply
            (r = 0). Or a sequence-classification model with one logit, or the path of one. Or a
            list of these.
        beta: in units of the reward, above 0; left out, `fit` finds it from a budget (`kl_budget`,
            `reward_target`), or `with_beta` sets it.
        weights: one per function; 1 each if left out.
        max_reward: the largest reward that there can be, where there is one: rejection then knows
            its bound. It is believed until a sampler meets a larger reward, and stops.
        settings: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`); a completion that is dropped is
            ruled out. Of a model: `tokenizer` and `batch_size`.

    Raises:
        ConfigError: for a beta that is not a positive number, or a weight or max_reward that is not
            finite.
        EvidenceError: when scoring, for NaN, +inf, strings, a wrong number of values, or whatever
            the function raises.

    Example:
        >>> def reward(completions, **_):
        ...     return [float(text.count("a")) for text in completions]
        >>> po.Reward(reward, beta=0.5, max_reward=3.0).max_log_evidence
        6.0
    """

    is_reward = True

    @named_arguments
    def __init__(
        self,
        fn: RewardLike | Sequence[RewardLike],
        beta: float | None = None,
        *,
        weights: Sequence[float] | None = None,
        max_reward: float | None = None,
        **settings: Unpack[RewardKeywords],
    ) -> None:
        if max_reward is not None and finite(max_reward) is None:
            raise ConfigError(
                f"max_reward={in_short(max_reward)} must be a finite number",
                where="Reward",
                hint="leave it out where the reward has no largest value",
            )
        fns = list(fn) if isinstance(fn, list | tuple) else [fn]
        self.weights = _checked_weights(weights, len(fns))
        self.beta = None if beta is None else check_beta(beta, "Reward")
        self.max_reward = None if max_reward is None else float(max_reward)
        of_calls = settings.keys() & {*CallSettings.model_fields, "calls"}
        known = {name: settings.pop(name) for name in of_calls}
        calling = call_settings(known, "Reward")
        self.fns = [_as_function(each, settings) for each in fns]
        self.names = _names(self.fns)
        self.name = f"reward function '{' + '.join(self.names)}'"
        self._ask = [
            Caller(each, f"reward function '{name}'", calling, dropped=-math.inf)
            for each, name in zip(self.fns, self.names, strict=True)
        ]

    def with_beta(self, beta: float) -> Reward:
        """The same reward at another beta; calls, caches and counts are shared."""
        other = copy.copy(self)
        other.beta = check_beta(beta, "Reward")
        return other

    @property
    def max_log_evidence(self) -> float | None:
        """The largest log e there can be, `max_reward` / beta, where both are known."""
        if self.max_reward is None or self.beta is None:
            return None
        return self.max_reward / self.beta

    @property
    def functions(self) -> list[tuple[str, Callable[..., Any]]]:
        """The functions, with their names in messages."""
        return [(ask.name, fn) for ask, fn in zip(self._ask, self.fns, strict=True)]

    @property
    def callers(self) -> tuple[Caller, ...]:
        """What calls the user's functions, and counts it."""
        return tuple(self._ask)

    @property
    def counts(self) -> CallCounts:
        """Of all its functions together."""
        return sum((ask.counts for ask in self._ask), CallCounts())

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(finding for ask in self._ask for finding in ask.findings)

    def score(self, completions: Completions, columns: Columns) -> Scores:
        beta = known_beta(self.beta, "Reward")
        r_N = torch.zeros(len(completions), dtype=torch.float64)
        ruled_out_N = torch.zeros(len(completions), dtype=torch.bool)
        for name, ask, weight in zip(self.names, self._ask, self.weights, strict=True):
            answers = ask(completions, columns)
            each_N = numbers(answers, completions, name=ask.name, unit="reward")
            if len(self._ask) > 1:
                _tell(name, completions, each_N)
            each_N = torch.nan_to_num(each_N, nan=0.0, neginf=-math.inf)
            r_N = r_N + (weight * each_N).where(each_N > -math.inf, -math.inf)
            ruled_out_N = ruled_out_N | each_N.isneginf()
        off_N = ~(r_N / beta).isfinite() & ~ruled_out_N
        if bool(off_N.any()):
            row = int(off_N.nonzero()[0])
            raise EvidenceError(
                f"a reward of {float(r_N[row]):g} over beta {beta:g} is no finite number "
                f"(completion {row}, {completions.texts[row][:60]!r})",
                where=self.name,
                hint="raise beta, or scale the reward down",
            )
        return Scores(log_evidence=r_N / beta, reward=r_N)


def _tell(name: str, completions: Completions, each_N: torch.Tensor) -> None:
    """The run around of what one of several rewards is."""
    context = current_calls()
    if context.on_reward is not None:
        context.on_reward(name, completions, each_N)
    if not bool(each_N.isnan().all()):
        context.log_metric(f"reward/{name}", float(each_N.nanmean()))


def _checked_weights(weights: Sequence[float] | None, num: int) -> list[float]:
    if num == 0:
        raise ConfigError("there is no function", where="Reward", hint="pass one, or several")
    if weights is None:
        return [1.0] * num
    if len(weights) != num:
        raise ConfigError(
            f"{len(weights)} weights for {num} functions", where="Reward", hint="give one each"
        )
    for weight in weights:
        if not math.isfinite(weight):
            raise ConfigError(f"a weight of {weight} must be a finite number", where="Reward")
    return [float(weight) for weight in weights]


def _names(fns: Sequence[Any]) -> list[str]:
    """Each function's own, numbered where several have the same."""
    names = [function_name(fn) for fn in fns]
    return [
        f"{name}_{at}" if names.count(name) > 1 else name for at, name in enumerate(names, start=1)
    ]


def _as_function(fn: Any, settings: Mapping[str, Any]) -> Callable[..., Any]:
    if isinstance(fn, str | Path) or hasattr(fn, "config"):
        from posteriori.models.sequence_classifier import SequenceScorer

        return SequenceScorer(fn, **settings)
    if settings:
        raise ConfigError(
            f"unknown setting '{sorted(settings)[0]}' for a reward function", where="Reward"
        )
    if not callable(fn):
        raise EvidenceError(
            f"{type(fn).__name__} is neither a function nor a sequence-classification model",
            where="Reward",
            hint="pass fn(prompts, completions, **kwargs) -> list of floats",
        )
    return fn

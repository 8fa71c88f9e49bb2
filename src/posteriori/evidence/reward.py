"""Rewards as evidence: the KL-regularised RL target."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError, EvidenceError
from ..protocols import Columns, Scores
from ..types import Completions
from .call import call_user_function, function_name, numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reward:
    """log e(c, y) = r(c, y) / beta.

    With it the target is the optimum of E_pi[r] - beta KL(pi, prior) (arXiv 2205.11275, section 3):
    a small beta follows the reward, a large one stays with the prior.

    `fn` is called as TRL's trainers call reward functions (see `evidence.call`) and returns a float
    a completion: -inf forbids, None says that the reward does not apply (r = 0, the completion
    keeps its prior weight). `fn` may also be a sequence-classification model with a single logit,
    or the path of one.

    `max_reward` is the largest reward that `fn` can give, where there is one: with it rejection
    sampling knows its bound, log e <= max_reward / beta. It is taken at its word until a sampler
    that rests on it meets a larger reward, and stops.

    Raises `ConfigError` for a beta that is not a positive number, or a `max_reward` that is not
    finite; scoring raises `EvidenceError`
    for NaN, +inf, strings, a wrong number of values, or whatever the function raises.
    """

    is_reward = True

    def __init__(
        self,
        fn: Callable[..., Any] | PreTrainedModel | str | Path,
        beta: float,
        *,
        max_reward: float | None = None,
        **settings: Any,
    ) -> None:
        if not (math.isfinite(beta) and beta > 0):
            raise ConfigError(
                f"beta={beta} must be a positive number",
                where="Reward",
                hint="beta is the price of a nat of KL in units of reward",
            )
        if max_reward is not None and not math.isfinite(max_reward):
            raise ConfigError(
                f"max_reward={max_reward} must be a finite number",
                where="Reward",
                hint="leave it out where the reward has no largest value",
            )
        self.beta = float(beta)
        self.max_log_evidence = None if max_reward is None else max_reward / self.beta
        self.fn = _as_function(fn, settings)
        self.name = f"reward function '{function_name(self.fn)}'"

    def score(self, completions: Completions, columns: Columns) -> Scores:
        answers = call_user_function(self.fn, completions, columns, name=self.name)
        r_N = numbers(answers, completions, name=self.name, unit="reward")
        r_N = torch.nan_to_num(r_N, nan=0.0, neginf=-math.inf)
        return Scores(log_evidence=r_N / self.beta, reward=r_N)


def _as_function(fn: Any, settings: dict[str, Any]) -> Callable[..., Any]:
    if isinstance(fn, str | Path) or hasattr(fn, "config"):
        from .classifier import SequenceScorer

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

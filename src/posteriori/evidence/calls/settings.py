"""How a user's function is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypedDict

from pydantic import Field, model_validator

from posteriori.core.settings.combined import combined
from posteriori.core.settings.refused import refuse
from posteriori.core.settings.strict import Strict


class CallSettings(Strict):
    """How a user's function is called; see docs/ready-made.md.

    Args:
        cache: nothing is asked for twice.
        cache_size: how many completions are kept, those asked for last.
        check_repeats: of these, so many per call are asked for again, and have to get the same
            answer.
        workers: chunks that run beside each other.
        chunk_size: completions per chunk; left out, one chunk per worker.
        timeout: seconds that a chunk may take.
        pool: whether workers are threads or processes.
        on_failure: the error goes on up ("fail"), or does so after more tries ("retry"), or the
            completion is ruled out, counted and reported ("drop").
        retries: how many more tries.
        backoff: seconds before the first one; each later one waits twice as long.

    Raises:
        ConfigError: for an unknown setting, a value that is out of its range, or one that does
            nothing beside the others.
    """

    cache: bool = False
    cache_size: int = Field(default=100_000, ge=1)
    check_repeats: int = Field(default=0, ge=0)
    workers: int | None = Field(default=None, ge=1)
    chunk_size: int | None = Field(default=None, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    pool: Literal["thread", "process"] = "thread"
    on_failure: Literal["fail", "retry", "drop"] = "fail"
    retries: int = Field(default=3, ge=1)
    backoff: float = Field(default=0.5, ge=0)

    @model_validator(mode="after")
    def _no_idle(self) -> Self:
        """Nothing is set that would do nothing."""
        needs = {
            "check_repeats": ("cache=True", self.cache),
            "cache_size": ("cache=True", self.cache),
            "retries": ("on_failure='retry'", self.on_failure == "retry"),
            "backoff": ("on_failure='retry'", self.on_failure == "retry"),
        }
        for name, (needed, is_there) in needs.items():
            if name in self.model_fields_set and not is_there:
                refuse(f"{name} does nothing without {needed}")
        return self


class CallKeywords(TypedDict, total=False):
    """The same settings as keywords of evidence, for type checkers; see `CallSettings`."""

    cache: bool
    cache_size: int
    check_repeats: int
    workers: int | None
    chunk_size: int | None
    timeout: float | None
    pool: Literal["thread", "process"]
    on_failure: Literal["fail", "retry", "drop"]
    retries: int
    backoff: float
    calls: CallSettings | Mapping[str, Any] | None


class RewardKeywords(CallKeywords, total=False):
    """Settings of calls, and those of a reward that is a model."""

    tokenizer: Any
    batch_size: int


def call_settings(given: Mapping[str, Any], where: str) -> CallSettings:
    """The settings of calls among the keywords that evidence was `given`: each by its name, or all
    of them as `calls`. Raises `ConfigError` for settings that would do nothing."""
    keywords = dict(given)
    return combined(CallSettings, keywords.pop("calls", None), keywords, "calls", where)

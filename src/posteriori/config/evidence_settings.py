"""Settings of evidence: how functions are called, and what needs no function of one's own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from posteriori.core.settings.strict import Strict


class CallSettings(Strict):
    """How a user's function is called; see docs/ready-made.md.

    `cache`: nothing is asked for twice (of the `cache_size` completions asked for last);
    `check_repeats` of them a call are asked for again, and have to get the same answer. `workers`:
    chunks of `chunk_size` completions (one a worker) run beside each other, in a `pool` of threads
    or processes; each may take `timeout` seconds. `on_failure`: the error goes on up ("fail"), or
    does so after `retries` more tries, `backoff` 2^k seconds apart ("retry"), or the completion is
    ruled out, counted and told ("drop").
    """

    cache: bool = False
    cache_size: int = Field(100_000, ge=1)
    check_repeats: int = Field(0, ge=0)
    workers: int | None = Field(None, ge=1)
    chunk_size: int | None = Field(None, ge=1)
    timeout: float | None = Field(None, gt=0)
    pool: Literal["thread", "process"] = "thread"
    on_failure: Literal["fail", "retry", "drop"] = "fail"
    retries: int = Field(3, ge=1)
    backoff: float = Field(0.5, ge=0)


class WordsSettings(Strict):
    """See `posteriori.constraints.words`."""

    any_of: list[str] = Field(default_factory=list)
    none_of: list[str] = Field(default_factory=list)
    all_of: list[str] = Field(default_factory=list)
    case_sensitive: bool = False


class LengthSettings(Strict):
    """See `posteriori.constraints.length`."""

    min_tokens: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=0)
    min_words: int | None = Field(None, ge=0)
    max_words: int | None = Field(None, ge=0)


class ReadyMadeSettings(Strict):
    """Evidence that needs no function of one's own; see docs/ready-made.md. Which key goes with
    which kind and with which other keys is for `ready_made` to say."""

    regex: str | None = None
    match: Literal["full", "search"] | None = None
    words: WordsSettings | None = None
    length: LengthSettings | None = None
    json_schema: str | bool | dict[str, Any] | None = None
    classifier: str | None = None
    sklearn: str | None = None
    label: str | int | None = None
    word_probability: dict[str, float] | None = None
    observed: Literal["none", "some"] | None = None
    similarity: str | list[str] | None = None
    threshold: float | None = None
    temperature: float | None = Field(None, gt=0)
    read: Literal["both", "completion"] | None = None
    question: str | None = None
    yes: str | list[str] | None = None
    no: str | list[str] | None = None
    template: str | None = None
    url: str | None = None
    server: dict[str, Any] | None = None
    functions: list[str] | None = None
    weights: list[float] | None = None

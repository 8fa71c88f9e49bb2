"""How a user's function is called."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from posteriori.core.settings.strict import Strict


class CallSettings(Strict):
    """How a user's function is called; see docs/ready-made.md.

    `cache`: nothing is asked for twice (of the `cache_size` completions asked for last);
    `check_repeats` of them a call are asked for again, and have to get the same answer. `workers`:
    chunks of `chunk_size` completions (one per worker) run beside each other, in a `pool` of
    threads or processes; each may take `timeout` seconds. `on_failure`: the error goes on up
    ("fail"), or does so after `retries` more tries, `backoff` 2^k seconds apart ("retry"), or the
    completion is ruled out, counted and reported ("drop").
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

"""What is done about calls that fail: fail, retry, drop."""

from __future__ import annotations

import time
from collections.abc import Sequence

from posteriori.errors import EvidenceCallError

from .settings import CallSettings

Chunk = list[int]
"""Rows that are asked for in one call."""


class Dropped:
    """Stands for the answer of a completion that was dropped."""

    def __reduce__(self) -> str:
        """There is one, in every process."""
        return "DROPPED"


DROPPED = Dropped()


class FailurePolicy:
    """Which chunks are asked for again after they failed, and which rows are given up.

    `fail`: none, the error goes on up. `retry`: all, up to `retries` times, `backoff` 2^k seconds
    after the k-th. `drop`: a chunk of several is asked for again in halves, so that what fails is
    found; a single completion that fails is dropped.
    """

    def __init__(self, settings: CallSettings) -> None:
        self.settings = settings
        self.tries = 0

    @property
    def fails_at_once(self) -> bool:
        return self.settings.on_failure == "fail"

    def again(self, failed: Sequence[tuple[Chunk, EvidenceCallError]]) -> list[Chunk]:
        """The chunks to ask for next, after a pause where there is one. Raises what failed."""
        if not failed:
            return []
        if self.settings.on_failure == "drop":
            return [
                half
                for chunk, _ in failed
                for half in (chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :])
                if len(chunk) > 1
            ]
        chunk, error = failed[0]
        if self.tries == self.settings.retries:
            raise EvidenceCallError(
                f"{error.what}; so did {self.tries} more tries of its {len(chunk)} completions",
                where=error.where,
                hint=error.hint,
            ) from error
        time.sleep(self.settings.backoff * 2**self.tries)
        self.tries += 1
        return [chunk for chunk, _ in failed]

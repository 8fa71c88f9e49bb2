"""Standard error that may fail: a full disk or a closed pipe behind it ends no run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Lasting:
    """A text stream; when it cannot be written, what is said from then on goes nowhere."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _give_up(self) -> None:
        self.stream = open(os.devnull, "w")  # noqa: SIM115 - until exit


@contextmanager
def lasting_stderr() -> Iterator[None]:
    """Within it `sys.stderr` raises nothing. One that has failed is not put back: Python would
    fail to flush it at exit."""
    before = sys.stderr
    lasting = Lasting(before)
    sys.stderr = lasting
    try:
        yield
    finally:
        lasting.flush()
        if lasting.stream is before and sys.stderr is lasting:
            sys.stderr = before

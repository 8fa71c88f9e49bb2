"""Signals that end a process, turned into an exception, so that work is kept before it ends.

A scheduler sends SIGTERM or SIGUSR1 before it takes a machine away, and a closed terminal sends
SIGHUP. Python's answer to them is to end at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_MOST_WAITING = 2
"""A signal that comes once more than this is obeyed at once: whatever holds it may hang."""


class Signalled(KeyboardInterrupt):
    """A signal other than SIGINT arrived. As a `KeyboardInterrupt` it passes through users'
    `except Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def signal_behind(error: BaseException | None) -> int | None:
    """The signal that `error`, or what caused it, comes from; None where none does."""
    while error is not None:
        if isinstance(error, Signalled):
            return error.number
        error = error.__cause__
    return None


class Signals:
    """Inside `with Signals():` the signals above raise: `KeyboardInterrupt` for SIGINT, `Signalled`
    for the others.

    While `busy()` is true, or inside `held()`, a signal waits. Only Python's own answers are
    replaced, not a handler that other code has installed, nor an ignored signal (nohup); and only
    in the main thread, where alone Python allows it. They are put back at the end, and at once in a
    process that is forked inside: a handler in Python runs when its next line does, and a worker of
    a pool that receives its signal to end just before it waits would never come to that line.
    """

    installed: ClassVar[list[Signals]] = []

    def __init__(self, busy: Callable[[], bool] = lambda: False) -> None:
        self._busy = busy
        self._before: dict[int, Any] = {}
        self._holds = 0
        self._waiting: list[int] = []
        self._process = os.getpid()
        self.raised: int | None = None
        """The last signal that was raised."""

    def __enter__(self) -> Signals:
        self._process = os.getpid()
        if threading.current_thread() is not threading.main_thread():
            return self
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is None:
                continue
            before = signal.getsignal(number)
            if before in (signal.SIG_DFL, signal.default_int_handler) or isinstance(
                getattr(before, "__self__", None), Signals
            ):
                self._before[number] = before
                signal.signal(number, self._arrived)
        Signals.installed.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self in Signals.installed:
            Signals.installed.remove(self)
        self.put_back()
        self._before.clear()

    def put_back(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def held(self) -> Generator[None]:
        """A signal that arrives inside is raised at the end, unless the block fails by itself."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._waiting and not self._holds and not self._busy():
            self._raise(self._waiting.pop(0))

    def hold(self) -> None:
        """From here on signals wait until the end: the last good state is being saved."""
        self._holds += 1

    def _arrived(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked child has no work to keep.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if (self._holds or self._busy()) and len(self._waiting) < _MOST_WAITING:
            self._waiting.append(number)
            return
        self._raise(number)

    def _raise(self, number: int) -> None:
        self.raised = number
        raise KeyboardInterrupt if number == signal.SIGINT else Signalled(number)


def _in_a_forked_child() -> None:
    for installed in reversed(Signals.installed):
        installed.put_back()
    Signals.installed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_forked_child)

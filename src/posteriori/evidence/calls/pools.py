"""Calls that run beside each other, each with a time-out."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from posteriori.core.run.call_context import CallContext, TrainerState
from posteriori.errors import EvidenceCallError, EvidenceError

from .call import ask


class Request(NamedTuple):
    """One call: the function's arguments, its name, and the run around it."""

    arguments: dict[str, Any]
    name: str
    state: TrainerState


class Reply(NamedTuple):
    """What came of a call: one answer per completion, and what the function logged."""

    answers: list[Any]
    metrics: dict[str, float]
    extra: dict[str, list[Any]]


class Slot(Protocol):
    """A place where one call runs at a time."""

    def start(self) -> None:
        """Begin to make it ready, where it is not."""
        ...

    def wait(self) -> None:
        """Until it is ready; raises `EvidenceError` where that cannot be."""
        ...

    def call(self, request: Request) -> Reply | EvidenceError:
        """Blocks until the answer is there."""
        ...

    def abandon(self) -> None:
        """Give up the call that runs."""
        ...


def reply(fn: Callable[..., Any], request: Request) -> Reply | EvidenceError:
    """Call the function; an error becomes the result, so that it can travel."""
    context = CallContext(request.state)
    try:
        answers = ask(fn, request.arguments, context, name=request.name)
    except EvidenceError as error:
        return error
    return Reply(answers, context.metrics, context.extra)


class ThreadSlot:
    """Runs the function in this process. A thread cannot be ended: one that is given up runs on
    beside the others until its function returns, and does not keep the program from exiting."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def start(self) -> None:
        """A thread needs nothing."""

    def wait(self) -> None:
        """A thread needs nothing."""

    def call(self, request: Request) -> Reply | EvidenceError:
        return reply(self.fn, request)

    def abandon(self) -> None:
        """A thread cannot be ended."""


def run(
    slots: Sequence[Slot], requests: Sequence[Request], timeout: float | None
) -> Generator[tuple[int, Reply | EvidenceError]]:
    """Each request's position and what came of it, in the order in which they end.

    A call that takes longer than `timeout` seconds ends as an `EvidenceCallError`, and its slot
    goes on with the next. A caller that stops reading gives up what still runs.
    """
    done: SimpleQueue[tuple[int, Reply | EvidenceError]] = SimpleQueue()
    waiting = deque(range(len(requests)))
    idle = deque(slots[: len(requests)])
    busy: dict[int, tuple[Slot, float]] = {}
    limit = math.inf if timeout is None else timeout
    try:
        while waiting or busy:
            starting = [idle.popleft() for _ in range(min(len(waiting), len(idle)))]
            for slot in starting:
                slot.start()
            for slot in starting:
                slot.wait()
            for slot in starting:
                index = waiting.popleft()
                busy[index] = (slot, time.monotonic() + limit)
                _begin(slot, index, requests[index], done)
            index, result = _next(done, busy)
            if index not in busy:
                continue  # it came after it had been given up
            slot, _ = busy.pop(index)
            if result is None:
                slot.abandon()
                result = _too_long(requests[index].name, limit)
            idle.append(slot)
            yield index, result
    finally:
        for slot, _ in busy.values():
            slot.abandon()


def _begin(slot: Slot, index: int, request: Request, done: SimpleQueue) -> None:
    def work() -> None:
        done.put((index, slot.call(request)))

    # Threads of a ThreadPoolExecutor are joined at exit: one that hangs would hang the program.
    threading.Thread(target=work, name=f"posteriori call {index}", daemon=True).start()


def _next(
    done: SimpleQueue, busy: dict[int, tuple[Slot, float]]
) -> tuple[int, Reply | EvidenceError | None]:
    """What ends next; None of the call that has been running for too long."""
    first = min(busy, key=lambda index: busy[index][1])
    deadline = busy[first][1]
    try:
        left = None if math.isinf(deadline) else max(0.0, deadline - time.monotonic())
        return done.get(timeout=left)
    except Empty:
        return first, None


def _too_long(name: str, limit: float) -> EvidenceCallError:
    return EvidenceCallError(
        f"it took longer than timeout={limit:g} seconds",
        where=name,
        hint="raise the timeout, ask for fewer completions at once (chunk_size), or say what is "
        "to become of calls that fail (on_failure)",
    )

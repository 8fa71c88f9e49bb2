"""The queue: how many requests are worked on, how many may wait, and until when.

The event loop admits requests and waits; threads do the work. A request that is refused, has passed
its deadline or has lost its client ends at once for the client; its thread ends where it next asks.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .refusal import Refusal

T = TypeVar("T")


class Cancelled(BaseException):
    """Ends a request's thread; passes through `except Exception` of users' functions."""


@dataclass(eq=False)
class Work:
    """One request's work, from its arrival to its end."""

    do: Callable[[Callable[[], None]], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    stopped: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        if self.stopped.is_set():
            raise Cancelled


class Queue:
    """Threads for `running` requests, and room for `waiting` more.

    `wake` is called when a request is stopped, to let threads that wait find out.
    """

    def __init__(self, running: int, waiting: int, wake: Callable[[], None]) -> None:
        self._most, self._wake = running + waiting, wake
        self._jobs: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self.held = 0
        """Requests that wait or are worked on."""
        self.working = 0
        """Requests that are worked on."""
        self._threads = [
            threading.Thread(target=self._run_for_ever, name=f"request-{at}", daemon=True)
            for at in range(running)
        ]
        for thread in self._threads:
            thread.start()

    async def do(
        self,
        work: Callable[[Callable[[], None]], T],
        deadline: float,
        gone: Callable[[], Any] | None = None,
    ) -> T:
        """What `work` returns, called in a thread with a function that raises once it is to stop.

        `gone` makes an awaitable that ends when the client has left. Raises `Refusal`: 429 where
        there is no room, 504 after `deadline` seconds, 499 for a client that has left.
        """
        with self._mutex:
            if self.held >= self._most:
                raise Refusal(
                    429,
                    f"{self.held} requests are waiting or being drawn for, the most that there is "
                    "room for; try again later",
                    code="queue_full",
                    retry_after=1,
                )
            self.held += 1
        loop = asyncio.get_running_loop()
        job = Work(work, loop.create_future(), loop)
        self._jobs.put(job)
        leaving = None if gone is None else asyncio.ensure_future(gone())
        both = [job.future] if leaving is None else [job.future, leaving]
        try:
            done, _ = await asyncio.wait(
                both, timeout=deadline, return_when=asyncio.FIRST_COMPLETED
            )
            if job.future in done:
                return job.future.result()
            if done:
                raise Refusal(499, "the client has left", code="client_left")
            raise Refusal(
                504,
                f"no answer within {deadline:g} seconds; ask for fewer draws or tokens, or serve "
                "with a longer --deadline",
                code="deadline",
            )
        finally:
            if leaving is not None:
                leaving.cancel()
            if not job.future.done():
                job.future.cancel()
                job.stopped.set()
                self._wake()

    def close(self) -> None:
        """End the threads once they have nothing to do."""
        for _ in self._threads:
            self._jobs.put(None)

    def _run_for_ever(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._mutex:
                self.working += 1
            try:
                outcome = _outcome(job)
            finally:
                with self._mutex:
                    self.working -= 1
                    self.held -= 1
            # Its place is free before the client hears of it.
            if outcome is not None:
                _hand(job, *outcome)
            # Nothing of a request is held while the thread waits for the next one.
            del job, outcome


def _outcome(job: Work) -> tuple[Any, bool] | None:
    """What came of it, and whether that is an error; None where it was cancelled."""
    try:
        job.check()
        return job.do(job.check), False
    except Cancelled:
        return None
    except BaseException as error:
        return error, True


def _hand(job: Work, what: Any, is_error: bool) -> None:
    """Give a result to the event loop, unless no one waits for it any more."""

    def give() -> None:
        if not job.future.done():
            if is_error:
                job.future.set_exception(what)
            else:
                job.future.set_result(what)

    if not job.loop.is_closed():
        job.loop.call_soon_threadsafe(give)

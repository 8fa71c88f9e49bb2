"""Where work that is shared out by rows is done: here, unless an executor says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Executor(Protocol):
    """Does the rows of a piece of work in places of its own."""

    def map(self, number: int, work: Callable[[slice], T]) -> list[T]:
        """What `work` returns for runs of neighbouring rows that cover `number` rows, in order."""
        ...


class SentOnce:
    """The base class of what is large and does not change within a verb (models, users' functions):
    an executor sends it once, and not with every piece of work that refers to it."""


_EXECUTOR: ContextVar[Executor | None] = ContextVar("posteriori_executor", default=None)


def executor() -> Executor | None:
    """None where work is done in this process, or by processes that run the same program."""
    return _EXECUTOR.get()


@contextmanager
def spread_over(chosen: Executor) -> Generator[None]:
    """Inside, rows are done by `chosen`."""
    token = _EXECUTOR.set(chosen)
    try:
        yield
    finally:
        _EXECUTOR.reset(token)

"""Progress: from the loops that do the work up to whoever watches a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[int, int], None]
"""Told how many of how many units of work are done. What has several stages of which nobody knows
the number begins again with each."""

_watcher: ContextVar[Callable[[float], None] | None] = ContextVar("watcher", default=None)


def advance(completions: float) -> None:
    """So many more completions are drawn, scored or judged; a part of one counts as such.

    Models and evidence say so in their loops. It changes nothing but what is shown, and costs
    nothing where nobody watches.
    """
    watcher = _watcher.get()
    if watcher is not None:
        watcher(completions)


@contextmanager
def one_pass(on_progress: Progress | None, completions: int) -> Iterator[None]:
    """What `advance` is told within is a pass over so many completions, all done at its end.

    More than that is not believed: evidence that runs a model of its own makes several passes.
    Without `on_progress` whoever watches already goes on watching.
    """
    if on_progress is None:
        yield
        return
    done = 0.0

    def told(more: float) -> None:
        nonlocal done
        done = min(done + more, completions)
        on_progress(int(done), completions)

    token = _watcher.set(told)
    try:
        yield
    finally:
        _watcher.reset(token)
    on_progress(completions, completions)


@contextmanager
def counted_by(share: float) -> Iterator[None]:
    """What `advance` is told within counts by `share`: of a completion that is scored several
    times, each is a part."""
    outer = _watcher.get()
    if outer is None:
        yield
        return
    token = _watcher.set(lambda more: outer(share * more))
    try:
        yield
    finally:
        _watcher.reset(token)


def portions(on_progress: Progress | None, sizes: Sequence[int]) -> list[Progress | None]:
    """An `on_progress` for each of several parts, one after another, of a whole that is their sum;
    each may count in units of its own."""
    if on_progress is None:
        return [None] * len(sizes)
    total = sum(sizes)

    def portion(before: int, size: int) -> Progress:
        return lambda done, of: on_progress(before + size * done // max(of, 1), total)

    return [portion(sum(sizes[:at]), size) for at, size in enumerate(sizes)]

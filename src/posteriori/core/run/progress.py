"""Progress: from the loops that do the work to the callback that a call was given."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from posteriori.distributed.world import sharing

from .context import current, within

Progress = Callable[[int, int], None]
"""Called with the units of work that are done and their total. Work with an unknown number of
stages begins again with each."""


def advance(completions: float) -> None:
    """So many more completions are drawn, scored or judged; a part of one counts as such.

    Models and evidence call it in their loops. It changes nothing but what is shown, and costs
    nothing without a callback.
    """
    watched = current().advance
    if watched is not None:
        # A share of the rows is done while the other processes do theirs.
        watched(completions * sharing())


@contextmanager
def one_pass(on_progress: Progress | None, completions: int) -> Generator[None]:
    """Calls of `advance` within are one pass over so many completions, all done at its end.

    The count is capped there: evidence that runs a model of its own makes several passes.
    Without `on_progress` an outer callback goes on receiving them.
    """
    if on_progress is None:
        yield
        return
    done = 0.0

    def report(more: float) -> None:
        nonlocal done
        done = min(done + more, completions)
        on_progress(int(done), completions)

    with within(advance=report):
        yield
    on_progress(completions, completions)


@contextmanager
def counted_by(share: float) -> Generator[None]:
    """Calls of `advance` within count by `share`: where a completion is scored several times, each
    time is a part of it."""
    outer = current().advance
    if outer is None:
        yield
        return

    def report(more: float) -> None:
        outer(share * more)

    with within(advance=report):
        yield


def portions(on_progress: Progress | None, sizes: Sequence[int]) -> list[Progress | None]:
    """An `on_progress` for each of several parts, one after another, of a whole that is their sum;
    each may count in units of its own."""
    if on_progress is None:
        return [None] * len(sizes)
    total = sum(sizes)

    def portion(before: int, size: int) -> Progress:
        return lambda done, of: on_progress(before + size * done // max(of, 1), total)

    return [portion(sum(sizes[:at]), size) for at, size in enumerate(sizes)]

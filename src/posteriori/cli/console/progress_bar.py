"""Progress on standard error: a live bar in a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from posteriori.core.run.progress import Progress

from .output import stderr, visible
from .pace import Pace, Parts, RateColumn

_SHOWN = {
    "mean_reward": "reward",
    "kl_to_prior": "KL to prior",
    "entropy": "entropy",
    "accuracy": "accuracy",
    "margin": "margin",
}
"""Figures of a step that are worth a glance, where the objective records them."""

_PLAIN_LINES = 5
"""Lines that a short fit without a terminal prints; a long one prints more."""


class FitShown:
    """`on_step` of `fit`, and its `on_evaluation` and `on_note`."""

    def __init__(self, show: Callable[[int, str], None], console: Console | None) -> None:
        self._show, self._console = show, console
        self._last = ""

    def __call__(self, record: dict[str, Any]) -> None:
        self._show(record["step"] + 1, _figures(record) + self._last)

    def evaluated(self, line: dict[str, Any]) -> None:
        """Kept on the line until the next evaluation."""
        kl = line["kl_to_target"]
        self._last = (
            f", KL to target {float(kl['value']):.3g} ± {float(kl['standard_error']):.2g} "
            f"at {line['step']}"
        )

    def searching(self, done: int, total: int) -> None:
        """Before the first step: for the beta that a budget asks for."""
        self._show(0, f"finding beta: {done}/{total}")

    def note(self, text: str) -> None:
        """A line of its own."""
        if self._console is not None:
            self._console.print(visible(text), soft_wrap=True)


@contextmanager
def fit_progress(name: str, steps: int, *, quiet: bool = False) -> Iterator[FitShown]:
    """Callbacks for `fit` that show the step, the reward, the KL and the entropy, and the distance
    to the target where it is evaluated on the way."""
    with fits_progress({name: steps}, quiet=quiet) as shown:
        yield shown[name]


@contextmanager
def fits_progress(
    steps: Mapping[str, int], *, quiet: bool = False
) -> Iterator[dict[str, FitShown]]:
    """The same for several fits that run side by side: their names, and the steps of each."""
    console = stderr()
    if quiet:
        yield {name: FitShown(_silent, None) for name in steps}
    elif console.is_terminal:
        with _bar(console) as bar:
            yield {
                name: FitShown(_shown_on(bar, name, total), console)
                for name, total in steps.items()
            }
    else:
        yield {
            name: FitShown(_written_to(console, name, total), console)
            for name, total in steps.items()
        }


def _shown_on(bar: Bar, name: str, total: int) -> Callable[[int, str], None]:
    task = bar.add_task(visible(name), total=total, figures="")

    def show(done: int, figures: str) -> None:
        bar.update(task, completed=done, figures=figures)

    return show


def _written_to(console: Console, name: str, total: int) -> Callable[[int, str], None]:
    every = max(1, total // _PLAIN_LINES)
    pace = Pace()

    def write(done: int, figures: str) -> None:
        if (done and done % every == 0) or done == total or pace.due():
            line = f"{name}: step {done}/{total}, {figures}, {pace.words(done, total)}"
            console.print(visible(line), soft_wrap=True)

    return write


@contextmanager
def count_progress(name: str, *, quiet: bool = False) -> Iterator[Progress]:
    """An `on_progress(done, total)` callback that shows how much is done, how fast, and how long
    the rest will take. What counts fewer than before is a new part of the work."""
    console = stderr()
    if quiet:
        yield _uncounted
    elif console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(visible(name), total=None, figures="")
            parts = Parts()

            def show(done: int, total: int) -> None:
                if parts.begins(done):
                    bar.reset(task, total=total, description=visible(parts.called(name)))
                bar.update(task, completed=done, total=total)

            yield show
    else:
        console.print(visible(name), soft_wrap=True)
        pace, parts = Pace(), Parts()

        def write(done: int, total: int) -> None:
            nonlocal pace
            if parts.begins(done):
                pace = Pace()
            if pace.due() and done < total:
                line = f"{parts.called(name)}: {done}/{total}, {pace.words(done, total)}"
                console.print(visible(line), soft_wrap=True)

        yield write


@contextmanager
def status(text: str, *, quiet: bool = False) -> Iterator[None]:
    """Say what is being done while it is being done."""
    console = stderr()
    if quiet:
        yield
    elif console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text)
        yield


def hush_transformers() -> None:
    """Saving a model draws a bar of its own across this one, and adapters warn of a name that
    transformers is going to change in itself."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")


def _bar(console: Any) -> Bar:
    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


def _uncounted(done: int, total: int) -> None:
    del done, total


def _silent(done: int, figures: str) -> None:
    del done, figures


def _figures(record: dict[str, Any]) -> str:
    return ", ".join(f"{words} {record[key]:.3g}" for key, words in _SHOWN.items() if key in record)

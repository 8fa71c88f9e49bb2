"""Progress on standard error: a live bar in a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .output import stderr, visible

_SHOWN = {
    "mean_reward": "reward",
    "kl_to_prior": "KL to prior",
    "entropy": "entropy",
    "accuracy": "accuracy",
    "margin": "margin",
}
"""Figures of a step that are worth a glance, where the objective records them."""

_PLAIN_LINES = 5
"""Lines that a fit without a terminal prints."""


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

    def note(self, text: str) -> None:
        """A line of its own."""
        if self._console is not None:
            self._console.print(visible(text), soft_wrap=True)


@contextmanager
def fit_progress(name: str, steps: int, *, quiet: bool = False) -> Iterator[FitShown]:
    """Callbacks for `fit` that show the step, the reward, the KL and the entropy, and the distance
    to the target where it is evaluated on the way."""
    console = stderr()
    if quiet:
        yield FitShown(_silent, None)
    elif console.is_terminal:
        with _bar(console) as progress:
            task = progress.add_task(name, total=steps, figures="")

            def show(done: int, figures: str) -> None:
                progress.update(task, completed=done, figures=figures)

            yield FitShown(show, console)
    else:
        every = max(1, steps // _PLAIN_LINES)
        start = time.perf_counter()

        def write(done: int, figures: str) -> None:
            if done % every == 0 or done == steps:
                seconds = time.perf_counter() - start
                console.print(f"{name}: step {done}/{steps}, {figures}, {seconds:.0f} s")

        yield FitShown(write, console)


@contextmanager
def count_progress(name: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """An `on_progress(done, total)` callback that shows how much is done."""
    console = stderr()
    if quiet:
        yield _uncounted
    elif console.is_terminal:
        with _bar(console) as progress:
            task = progress.add_task(name, total=None, figures="")
            yield lambda done, total: progress.update(task, completed=done, total=total)
    else:
        start = time.perf_counter()
        lines: list[int] = []

        def write(done: int, total: int) -> None:
            line = done * _PLAIN_LINES // total
            if line > len(lines):
                lines.append(line)
                seconds = time.perf_counter() - start
                console.print(f"{name}: {done}/{total}, {seconds:.0f} s")

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


def _bar(console: Any) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
        console=console,
    )


def _uncounted(done: int, total: int) -> None:
    del done, total


def _silent(done: int, figures: str) -> None:
    del done, figures


def _figures(record: dict[str, Any]) -> str:
    return ", ".join(f"{words} {record[key]:.3g}" for key, words in _SHOWN.items() if key in record)

"""Progress of the Python functions: shown in a terminal and in notebooks, unless it is turned off.

`posteriori.show_progress("off")` and the environment variable POSTERIORI_PROGRESS decide: "auto"
(the default) shows a bar on a terminal's standard error and its notebook form in Jupyter, and
nothing where standard error is a pipe or a file; "on" and "off" do so everywhere. A function that
is given `on_progress` shows nothing of its own, and neither does what runs within another.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, TypeVar, get_args

from posteriori.distributed.world import is_first
from posteriori.errors import ConfigError, did_you_mean

from .context import current, within
from .progress import Progress

Mode = Literal["auto", "on", "off"]

_SECONDS = 1.0
"""Work that is done sooner shows nothing."""

_mode: Mode | None = None


def show_progress(mode: Mode) -> None:
    """Whether functions of this process show how far they are, once they take longer than a second.

    Args:
        mode: "auto" (where there is a terminal or a notebook), "on" or "off".

    Returns:
        None.

    Raises:
        ConfigError: for another mode.

    Example:
        >>> po.show_progress("auto")
    """
    global _mode
    if mode not in get_args(Mode):
        raise ConfigError(f"unknown mode '{mode}'", hint=did_you_mean(str(mode), get_args(Mode)))
    _mode = mode


def is_shown() -> bool:
    """Whether a function that starts now shows its progress."""
    if current().shows_progress or not is_first():
        return False
    mode = _mode or os.environ.get("POSTERIORI_PROGRESS", "auto")
    if mode in ("on", "off"):
        return mode == "on"
    return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel: rich then draws its notebook form."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def shown(name: str, given: Progress | None) -> Generator[Progress | None]:
    """An `on_progress` for one function: the one that was given, or a bar of its own."""
    if given is not None or not is_shown():
        with within(shows_progress=True):
            yield given
        return
    bar = _Bar(name)
    try:
        with within(shows_progress=True):
            yield bar
    finally:
        bar.close()


AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def with_progress(name: str) -> Callable[[AnyFunction], AnyFunction]:
    """A function with an `on_progress` keyword that shows a bar where it is not given."""

    def decorate(function: AnyFunction) -> AnyFunction:
        @functools.wraps(function)
        def call(*arguments: Any, on_progress: Progress | None = None, **settings: Any) -> Any:
            with shown(name, on_progress) as watched:
                return function(*arguments, on_progress=watched, **settings)

        return call  # pyright: ignore[reportReturnType]

    return decorate


def _bar() -> Any:
    if _in_notebook() and find_spec("ipywidgets") is None:
        return _Line()
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    console = Console(file=None if _in_notebook() else sys.stderr)
    return RichProgress(console=console, transient=console.is_terminal)


class _Line:
    """As rich's progress, in a notebook without the widgets that rich wants there: one line of
    text, which is empty in the end."""

    _EACH_SECONDS = 0.2

    def __init__(self) -> None:
        self._shown: Any = None
        self._name, self._next = "", 0.0

    def start(self) -> None:
        # By name: only notebooks have it, and it says little of its types.
        shell: Any = import_module("IPython.display")
        self._shown = shell.display(_text(""), raw=True, display_id=True)

    def add_task(self, name: str, total: int) -> int:
        self._name = f"{name}: {{}} of {total:,}"
        return 0

    def reset(self, _task: int, total: int) -> None:
        self._name = f"{self._name.partition(':')[0]}: {{}} of {total:,}"

    def update(self, _task: int, completed: int, total: int) -> None:
        del total
        if time.monotonic() >= self._next:
            self._shown.update(_text(self._name.format(f"{completed:,}")), raw=True)
            self._next = time.monotonic() + self._EACH_SECONDS

    def stop(self) -> None:
        self._shown.update(_text(""), raw=True)


def _text(text: str) -> dict[str, str]:
    return {"text/plain": text}


class _Bar:
    """A bar of rich's that appears once the work has taken a second."""

    def __init__(self, name: str) -> None:
        self.name, self._clock, self._start = name, time.monotonic, time.monotonic()
        self._bar, self._task, self._done = None, None, 0

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            if self._clock() - self._start < _SECONDS:
                return
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=total)
        assert self._task is not None
        if done < self._done:
            self._bar.reset(self._task, total=total)
        self._done = done
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

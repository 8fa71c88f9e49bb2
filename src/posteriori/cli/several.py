"""Verbs and several processes: which share their work, and how many there are to be."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Annotated, Any

import typer

from posteriori.distributed.environment import launched, require_one
from posteriori.distributed.world import together
from posteriori.errors import ConfigError, DistributedError

Processes = Annotated[
    int, typer.Option(min=1, help="Processes on this machine that share the work.")
]

arguments_now: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())
"""The command line that is being run."""


def shared(verb: Callable[..., int]) -> Callable[..., int]:
    """A verb that several processes do together: those that a launcher has started, or as many new
    ones as `--processes` says."""

    @functools.wraps(verb)
    def call(*values: Any, processes: int = 1, **settings: Any) -> int:
        line = list(arguments_now.get())
        there = launched()
        if there is None and processes > 1:
            from posteriori.distributed.launch import launch

            return launch(processes, "posteriori", without_processes(line))
        if there is not None and processes not in (1, there.size):
            raise ConfigError(
                f"--processes {processes} in one of {there.size} processes",
                hint="leave --processes out under torchrun and accelerate launch",
            )
        with together(f"posteriori {verb.__name__}", lambda: "\n".join(line)):
            return verb(*values, **settings)

    return call


def single(verb: Callable[..., int]) -> Callable[..., int]:
    """A verb that one process does; several would do, or write, the same thing over each other."""

    @functools.wraps(verb)
    def call(*values: Any, **settings: Any) -> int:
        name = verb.__name__.replace("_", "-")
        require_one(f"`posteriori {name}`", "start it without torchrun or accelerate launch")
        return verb(*values, **settings)

    return call


def without_processes(line: Sequence[str]) -> list[str]:
    """The command line for each of them. No question can be answered there, so it was asked
    before."""
    kept, skip = [], False
    for part in line:
        if skip or part.startswith("--processes="):
            skip = False
        elif part == "--processes":
            skip = True
        else:
            kept.append(part)
    return kept


def speaker() -> str:
    """What an error's line begins with, where several processes may write one."""
    try:
        there = launched()
    except DistributedError:
        return ""
    return "" if there is None or there.rank == 0 else f"process {there.rank} of {there.size}: "


def silence() -> None:
    """Results are for the first process to print; errors are for all."""
    import os
    import warnings

    try:
        there = launched()
    except DistributedError:
        return
    if there is not None and there.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until exit
        warnings.simplefilter("ignore")

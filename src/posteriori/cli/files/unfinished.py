"""Where a verb keeps what is finished of its work until all of it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from posteriori.cli.console.output import stderr, visible
from posteriori.distributed.world import is_first

_SUFFIX = ".unfinished"


class Unfinished:
    """A folder beside the result at `path`, with a journal for each part of the work.

    It goes with `done`, when the result is where it belongs.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path.with_name(path.name + _SUFFIX)

    def of(self, part: str) -> Path:
        return self.folder / part

    def done(self) -> None:
        if is_first():
            shutil.rmtree(self.folder, ignore_errors=True)


def offer_resume(*, quiet: bool) -> None:
    """What to do about a run that has stopped."""
    if not quiet:
        say("the same command with --resume goes on from what is finished")


def say(note: str) -> None:
    """On standard error; for the notes of a journal."""
    stderr().print(visible(f"note: {note}"), soft_wrap=True)

"""The files of a journal: one per finished piece, and the newest state of a piece that grows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from posteriori.distributed.exchange import by_first
from posteriori.distributed.world import is_first
from posteriori.errors import CheckpointError

from .files import write_data
from .plain_data import DamagedError, Decode, NotPlainError, from_bytes, to_bytes
from .random_streams import put_streams, read_streams

_SHARE = 20
"""States on the way take at most one part in so many of the time."""

Generators = Sequence[torch.Generator | None]
Inner = Callable[["Pieces"], Any]


class Counter(Protocol):
    """Something that counts what it does, in a dataclass of numbers that can be added."""

    counts: Any


class Pieces:
    """Pieces of work in their order, each in a file; those inside a piece are in a folder beside.

    A file that cannot be written is reported once by `note`, and the work goes on. One that is
    damaged is as good as none: the piece is done again.
    """

    def __init__(
        self,
        folder: Path,
        decode: Decode | None,
        counters: Sequence[Counter],
        note: Callable[[str], None],
    ) -> None:
        self.folder, self.decode, self.counters, self.note = folder, decode, counters, note
        self._number = 0

    def once(self, work: Inner, generators: Generators) -> Any:
        file, inside = self._next()
        found = self.read(file, generators)
        if found is not None:
            return found[0]
        before = self.counts()
        value = work(self.inner(inside))
        self.write(file, (value,), generators, before)
        if is_first():
            shutil.rmtree(inside, ignore_errors=True)
        return value

    @contextmanager
    def growing(self, generators: Generators) -> Generator[Growing]:
        """A piece of which the newest state is kept."""
        yield Growing(self, *self._next(), generators)

    def apart(self) -> Pieces:
        """For pieces whose number is not known before."""
        return self.inner(self._next()[1])

    def counts(self) -> list[Any]:
        return [replace(counter.counts) for counter in self.counters]

    def _next(self) -> tuple[Path, Path]:
        name = f"{self._number:06d}"
        self._number += 1
        return self.folder / f"{name}.piece", self.folder / name

    def inner(self, folder: Path) -> Pieces:
        return Pieces(folder, self.decode, self.counters, self.note)

    def read(self, file: Path, generators: Generators) -> Any:
        """The value, with all streams of random numbers where they were behind it."""
        try:
            data = by_first(lambda: _bytes_of(file))
            if data is None:
                return None
            value, states, streams, counts = from_bytes(data, self.decode)
        except DamagedError:
            self.note(f"'{file}' is damaged, and its piece of work is done again")
            return None
        for generator, state in zip(generators, states, strict=True):
            if generator is not None:
                generator.set_state(state)
        put_streams(streams)
        for counter, more in zip(self.counters, counts, strict=True):
            counter.counts = counter.counts + type(counter.counts)(**more)
        return value

    def write(self, file: Path, value: Any, generators: Generators, before: Sequence[Any]) -> bool:
        if not is_first():
            return False
        states = [None if g is None else g.get_state() for g in generators]
        counts = [
            {name: number - then.__dict__[name] for name, number in _numbers(counter).items()}
            for counter, then in zip(self.counters, before, strict=True)
        ]
        try:
            data = to_bytes((value, states, read_streams(), counts))
            file.parent.mkdir(parents=True, exist_ok=True)
            write_data(file, data)
        except NotPlainError as error:
            self.note(f"work with a {error} in it cannot be kept, and is lost when the run stops")
            return False
        except (OSError, CheckpointError) as error:
            self.note(f"finished work is not kept on the way: {error}")
            return False
        return True


def _numbers(counter: Counter) -> dict[str, float]:
    numbers: dict[str, float] = counter.counts.__dict__
    return numbers


class Growing:
    """The newest state of a piece, and `found`, what it was before a kill."""

    def __init__(self, pieces: Pieces, file: Path, folder: Path, generators: Generators) -> None:
        self._pieces, self._file, self._folder = pieces, file, folder
        self._generators = generators
        self._before = pieces.counts()
        self.found: Any = pieces.read(file, generators)
        self._next = 0.0

    def inner(self, number: int) -> Pieces:
        """Of the step with that number."""
        return self._pieces.inner(self._folder / f"{number:06d}")

    def save(self, state: Callable[[], Any], *, last: bool) -> None:
        start = time.monotonic()
        if start < self._next and not last:
            return
        written = self._pieces.write(self._file, state(), self._generators, self._before)
        if written:
            with suppress(OSError):
                shutil.rmtree(self._folder)
        self._next = time.monotonic() + _SHARE * (time.monotonic() - start)


def _bytes_of(file: Path) -> bytes | None:
    """Nothing, which is no record of any work, where the file cannot be read."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return b""

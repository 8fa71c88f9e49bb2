"""Finished pieces of work, in a folder: a run that was killed is made again without doing them
again, and ends with the same bits.

All work here is a function of its settings and seeds. So a piece is known by its place in the order
of the work, and its result, where it is on disk, replaces doing it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from posteriori.core.run.context import current, within
from posteriori.distributed.exchange import by_first
from posteriori.distributed.world import sharing
from posteriori.errors import CheckpointError

from .files import write_whole
from .lock import Lock
from .pieces import Counter, Pieces
from .plain_data import Decode

T = TypeVar("T")
S = TypeVar("S")
X = TypeVar("X")


def once(work: Callable[[], T], *generators: torch.Generator | None) -> T:
    """What `work` returns, or returned before a kill; `generators` are those that it draws from.

    Inside `keeping` a journal. Outside, it is just done. Pieces may have pieces of their own, which
    are forgotten when the outer one is finished.
    """
    pieces = _pieces()
    if pieces is None:
        return work()
    return pieces.once(lambda inner: _within(inner, work), generators)


def fold(
    state: S,
    items: Sequence[X],
    step: Callable[[S, X], S],
    *generators: torch.Generator | None,
    pack: Callable[[S], Any] = lambda state: state,
    unpack: Callable[[Any], S] = lambda packed: packed,
) -> S:
    """`step` applied to each item in turn; of the states on the way the newest is kept.

    As it has to be written whole each time, that takes at most a twentieth of the time. `pack`
    makes it plain values and tensors, and `unpack` a state of these. A step may have pieces of its
    own.
    """
    pieces = _pieces()
    at = 0
    if pieces is None:
        for item in items:
            state = step(state, item)
        return state
    with pieces.growing(generators) as growing:
        if growing.found is not None:
            at, packed = growing.found
            state = unpack(packed)
        for number in range(at, len(items)):
            before, item = state, items[number]
            state = _within(growing.inner(number), lambda s=before, i=item: step(s, i))
            growing.save(lambda s=state, n=number: (n + 1, pack(s)), last=number + 1 == len(items))
    return state


def _pieces() -> Pieces | None:
    """None in a share of the work too: the pieces of processes are not each other's."""
    return current().pieces if sharing() == 1 else None


def apart(work: Callable[[], T]) -> T:
    """`work`, whose pieces may be of another number when it is done again (how many rows fit in
    memory, say): they are counted by themselves, and have to say what they are of."""
    pieces = _pieces()
    return work() if pieces is None else _within(pieces.apart(), work)


def _within(pieces: Pieces, work: Callable[[], T]) -> T:
    with within(pieces=pieces):
        return work()


class Journal:
    """`path` is a folder of its own; `about` says of what the work is, and one process at a time
    writes there.

    With `resume`, what is there is taken up; a journal that is not there begins. Raises
    `CheckpointError` where there are pieces and `resume` is false, where they are of other work,
    and where another process writes.
    """

    def __init__(self, path: Path | str, about: Mapping[str, Any], *, resume: bool) -> None:
        self.path = Path(path)
        self.about_file, self.folder = self.path / "about.json", self.path / "pieces"
        self.notes: list[str] = []
        self.lock: Lock | None = None
        # Of several processes the first one has the lock and writes; the others hear how it went.
        by_first(lambda: self._open(about, resume=resume))

    def _open(self, about: Mapping[str, Any], *, resume: bool) -> None:
        try:
            self.lock = _locked(self.path)
        except OSError as error:
            raise CheckpointError(
                f"finished work cannot be kept in '{self.path}': {error.strerror}",
                hint="make room there, or choose another place",
            ) from error
        try:
            self._begin(json.loads(json.dumps(about)), resume=resume)
        except BaseException:
            self.lock.release()
            raise

    def _begin(self, about: dict[str, Any], *, resume: bool) -> None:
        if self.folder.is_dir() and any(self.folder.iterdir()):
            if not resume:
                raise CheckpointError(
                    f"'{self.path}' holds what an unfinished run has finished",
                    hint="go on from there (--resume, resume=True), or remove that folder",
                )
            self._check_same(about)
        else:
            write_whole(self.about_file, json.dumps(about, indent=2) + "\n")

    def _check_same(self, about: dict[str, Any]) -> None:
        try:
            before = json.loads(self.about_file.read_bytes())
            changed = [key for key in {**before, **about} if before.get(key) != about.get(key)]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(
                "nothing says what this unfinished run is",
                where=str(self.about_file),
                hint=f"remove '{self.path}', and begin again",
            ) from error
        if changed:
            raise CheckpointError(
                f"'{self.path}' is of another run: {', '.join(sorted(changed))} "
                f"{'has' if len(changed) == 1 else 'have'} changed",
                hint="go on with what it began with, or remove that folder to begin again",
            )

    @contextmanager
    def keeping(
        self, decode: Decode | None = None, counters: Sequence[Counter] = ()
    ) -> Generator[None]:
        """Pieces of work inside are kept. `decode` is of completions among them; what each piece
        adds to the `counts` of `counters` is added again where it is not done again."""
        pieces = Pieces(self.folder, decode, counters, self._note)
        with within(pieces=pieces):
            yield

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def close(self) -> None:
        """Let another process go on."""
        if self.lock is not None:
            self.lock.release()

    def remove(self) -> None:
        """The work is done, and its result is elsewhere."""
        if self.lock is None:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()


def _locked(path: Path) -> Lock:
    """The folder and its lock; another process may be removing it."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            return Lock(path)
        except FileNotFoundError:
            continue

"""Files that are either the old or the new ones, whenever the process dies; errors in one line."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from posteriori.distributed.world import is_first
from posteriori.errors import CheckpointError

_OF_WRITERS = ("writer", "unexpected pos", "inline_container", "iostream", "basic_ios", "i/o error")


@contextmanager
def writing(
    what: str, place: Path, hint: str = "make room, or choose another place"
) -> Generator[None]:
    """Inside it, what goes wrong with a file is a `CheckpointError` that says so."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _error(what, place, hint, error) from error
    except RuntimeError as error:
        # torch.save's own writer has no error of its own for a full disk, but several of C++.
        if not any(sign in str(error).lower() for sign in _OF_WRITERS):
            raise
        raise _error(what, place, hint, error) from error


def _error(what: str, place: Path, hint: str, error: Exception) -> CheckpointError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError(
        f"{what} cannot be written: {why.splitlines()[0]}", where=str(place), hint=hint
    )


def write_whole(path: Path, text: str) -> None:
    """Write a text file under another name, flush it to disk, and rename it.

    Raises `CheckpointError` where it cannot be written; the old file is then as it was. Of several
    processes the first one writes, here and below.
    """
    if not is_first():
        return
    with (
        writing("the file", path),
        replacing(path) as incoming,
        incoming.open("w", encoding="utf-8") as file,
    ):
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_data(path: Path, data: bytes) -> None:
    """As `write_whole`, of bytes."""
    if not is_first():
        return
    with writing("the file", path), replacing(path) as incoming:
        incoming.write_bytes(data)
        flush(incoming)


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A new, empty file that becomes `path` at the end, and is gone if the block fails.

    Its name is freed first and taken as new: a link in its place is not followed.
    """
    incoming = path.with_name(f".{path.name}.incoming")
    incoming.unlink(missing_ok=True)
    try:
        os.close(os.open(incoming, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield incoming
        os.replace(incoming, path)
    except BaseException:
        incoming.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of lines. Raises `CheckpointError` where the file is a link: what it
    points to is not ours."""
    if not is_first():
        return
    flags = os.O_APPEND | os.O_CREAT | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    with writing("the line", path):
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise CheckpointError(
                "the file is a link, and what it points to may be another program's",
                where=str(path),
                hint="remove the link",
            ) from error
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def save_folder(place: Path, save: Callable[[Path], None], *, by_all: bool = False) -> None:
    """`save` a folder's files beside `place`, and then move each into it under its name: in the
    first process. `by_all`: the others take part in `save`, which writes nothing there."""
    incoming = place.with_name(f".incoming-{place.name}")
    if not is_first():
        if by_all:
            save(incoming)
        return
    shutil.rmtree(incoming, ignore_errors=True)
    with writing("the files", place):
        try:
            save(incoming)
            place.mkdir(parents=True, exist_ok=True)
            for file in sorted(incoming.rglob("*")):
                if file.is_dir():
                    continue
                to = place / file.relative_to(incoming)
                to.parent.mkdir(parents=True, exist_ok=True)
                flush(file)
                os.replace(file, to)
            flush(place)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)


def flush(path: Path) -> None:
    """To the disk, whatever becomes of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

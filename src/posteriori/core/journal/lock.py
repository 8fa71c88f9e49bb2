"""One writer per run directory."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path

from posteriori.errors import CheckpointError

NAME = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Lock:
    """Holds `folder` for this process. The system lets go when the process ends, however it ends,
    so a lock that a dead process has left behind is simply taken.

    Raises `CheckpointError` where another writer, in this process or another, holds it. Where the
    system or the file system has no such locks, nothing is held, and `is_held` is false.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._descriptor: int | None = None
        if sys.platform == "win32":
            return
        import fcntl

        while self._descriptor is None:
            descriptor = os.open(
                self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644
            )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, 200).decode("utf-8", "replace").strip()
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    return
                if not isinstance(error, BlockingIOError):
                    raise
                raise CheckpointError(
                    f"another run is writing to '{folder}' ({holder or 'it has just started'})",
                    hint="wait for it, stop it, or choose another output_dir",
                ) from error
            # The holder before may have removed the file between the opening and the locking.
            if _same(descriptor, self.path):
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def release(self) -> None:
        """Let go; the file goes first, while no other process can hold it."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = None


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False

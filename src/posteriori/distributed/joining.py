"""The other processes are waited for: with a word to whoever looks on, and not for long where
nothing shows that there are any.

A shell or a scheduler may leave WORLD_SIZE, RANK and MASTER_ADDR behind, and a process that takes
them for true waits for others that never come.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from posteriori.errors import DistributedError

from .environment import Launched

JOINING = timedelta(minutes=10)
"""How long the first process waits for the last one."""

_UNLAUNCHED = timedelta(minutes=1)
"""The same on one machine, where no launcher has left its own marks."""

_APPEARING = 10.0
"""Seconds in which the others have to be processes of this machine."""

_SILENT = 5.0
_HINT = "unset WORLD_SIZE, RANK and MASTER_ADDR to run one process, or start all by torchrun"


def join_group(backend: str, found: Launched) -> None:
    """Make torch's process group. Raises `DistributedError` where the others do not come."""
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    alone = _is_here(host) and "TORCHELASTIC_RUN_ID" not in os.environ
    with _said(found, f"{host}:{port}"):
        if alone:
            _check_there(found, port)
        try:
            given: dict[str, Any] = {}
            if alone:
                first = found.rank == 0
                store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
                    host, int(port), found.size, first, _UNLAUNCHED
                )
                store.set_timeout(JOINING)
                given = {"store": store, "rank": found.rank, "world_size": found.size}
            dist.init_process_group(backend, timeout=JOINING, **given)
        except (RuntimeError, ValueError) as error:
            raise DistributedError(
                f"process {found.rank} of {found.size} did not find the others: "
                f"{first_line(error)}",
                hint=f"start all of them, with the same MASTER_ADDR and MASTER_PORT; or {_HINT}",
            ) from error


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _check_there(found: Launched, port: str) -> None:
    """Raise `DistributedError` where this process was started with these variables, and no other
    process of this machine was started with those of the others. What a program has set itself is
    not seen, nor anything where the system has no /proc."""
    if _started_with("self").get("RANK") != str(found.rank):
        return
    missing, end = set(range(found.size)) - {found.rank}, time.monotonic() + _APPEARING
    while missing and time.monotonic() < end:
        for place in Path("/proc").iterdir():
            other = _started_with(place.name) if place.name.isdecimal() else {}
            if other.get("MASTER_PORT") == port and other.get("RANK", "").isdecimal():
                missing.discard(int(other["RANK"]))
        if missing:
            time.sleep(0.2)
    if missing:
        raise DistributedError(
            f"WORLD_SIZE={found.size} announces {found.size} processes on this machine, and there "
            f"is none with RANK={min(missing)}",
            hint=_HINT,
        )


def _started_with(process: str) -> dict[str, str]:
    """The variables that a process had when it began; nothing where they cannot be read."""
    try:
        data = Path("/proc", process, "environ").read_bytes()
    except OSError:
        return {}
    pairs = (each.partition("=") for each in data.decode("utf-8", "replace").split("\0"))
    return {name: value for name, _, value in pairs}


@contextmanager
def _said(found: Launched, place: str) -> Iterator[None]:
    """After some seconds it is said on standard error what is waited for."""

    def say() -> None:
        if sys.stderr is not None:
            sys.stderr.write(
                f"note: process {found.rank} of {found.size} waits for the others at {place}; "
                f"{_HINT}\n"
            )

    timer = threading.Timer(_SILENT, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]

"""Notices a process that has died, and ends this one: the others do not wait for it.

A process of this machine is looked for by its number once a second, so one that is merely slow is
never taken for dead. Those of other machines leave a sign of life in a store every second, and
count as dead after `_SILENCE` seconds without one.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

_EVERY = 1.0
_SILENCE = 15.0
_GRACE = 8.0
"""Seconds from noticing to the end of this process by force: time to save a checkpoint."""

EXIT_CODE = 70


class Peer(NamedTuple):
    """Where a process runs: `machine` is a place in which its number means something."""

    host: str
    machine: str
    pid: int
    started: float


def this_process() -> tuple[str, str, int, float]:
    import psutil

    return socket.gethostname(), _machine(), os.getpid(), psutil.Process().create_time()


def _machine() -> str:
    """Containers may share a host's name, and not its numbers of processes."""
    parts = [socket.gethostname()]
    for place in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(place) if "ns" in place else open(place).read().strip())  # noqa: SIM115
    return " ".join(parts)


class Watch:
    """Looks after `peers` while it is `on`; `found` says who has died, in words."""

    def __init__(
        self, rank: int, peers: Sequence[Peer], share_port: Callable[[int | None], int]
    ) -> None:
        self.rank, self.peers = rank, peers
        self.found = ""
        self._store = self._make_store(share_port)
        self._seen: dict[int, tuple[Any, float]] = {}
        self._on = threading.Event()
        self._main = threading.main_thread()
        self._thread: threading.Thread | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self._thread.start()
        self._seen.clear()
        self._on.set()
        try:
            yield
        finally:
            self._on.clear()

    def who_died(self) -> str:
        """In words, given a moment to be sure; empty where all are alive."""
        end = time.monotonic() + 3 * _EVERY
        while not self.found and time.monotonic() < end:
            if (dead := self._dead()) is not None:
                self._tell(dead)
                break
            time.sleep(_EVERY / 10)
        return self.found

    def _tell(self, rank: int) -> None:
        peer = self.peers[rank]
        self.found = (
            f"process {rank} of {len(self.peers)} (number {peer.pid} on {peer.host}) has ended "
            "before the work was done"
        )

    def _run(self) -> None:
        while True:
            self._on.wait()
            time.sleep(_EVERY)
            if not self._on.is_set():
                continue
            self._beat()
            dead = self._dead()
            if dead is None or not self._on.is_set():
                continue
            if not self.found:
                self._tell(dead)
            self._end()
            return

    def _end(self) -> None:
        """The exchange that waits for the dead fails by itself, as a rule. A share that is being
        done is interrupted, and what does not end by that is ended."""
        for wait, number in ((_GRACE / 2, signal.SIGINT), (_GRACE / 2, None)):
            end = time.monotonic() + wait
            while time.monotonic() < end:
                if not self._on.is_set():
                    return
                time.sleep(_EVERY / 10)
            if number is not None and hasattr(signal, "pthread_kill"):
                assert self._main.ident is not None
                signal.pthread_kill(self._main.ident, number)
        sys.stderr.write(f"error: {self.found}; start all processes again\n")
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    def _dead(self) -> int | None:
        mine = self.peers[self.rank].machine
        for rank, peer in enumerate(self.peers):
            if rank == self.rank:
                continue
            gone = _gone(peer) if peer.machine == mine else self._silent(rank)
            if gone:
                return rank
        return None

    def _make_store(self, share_port: Callable[[int | None], int]) -> Any:
        """Where signs of life are left: kept by the first process, where there are several
        machines."""
        if len({peer.machine for peer in self.peers}) == 1:
            return None
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        host, patience = self.peers[0].host, timedelta(seconds=60)
        if self.rank == 0:
            store = TCPStore(host, 0, None, True, patience, wait_for_workers=False)
            share_port(store.port)
            return store
        return TCPStore(host, share_port(None), None, False, patience)

    def _beat(self) -> None:
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.set(f"alive/{self.rank}", str(time.time()))

    def _silent(self, rank: int) -> bool:
        try:
            key = f"alive/{rank}"
            sign = self._store.get(key) if self._store.check([key]) else b""
        except RuntimeError:
            # The store is gone, and the process that kept it.
            return rank == 0
        before, since = self._seen.get(rank, (None, 0.0))
        if sign != before:
            self._seen[rank] = (sign, time.monotonic())
            return False
        return time.monotonic() - since > _SILENCE


def _gone(peer: Peer) -> bool:
    import psutil

    try:
        process = psutil.Process(peer.pid)
        return process.status() == psutil.STATUS_ZOMBIE or (
            abs(process.create_time() - peer.started) > 1.0
        )
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False

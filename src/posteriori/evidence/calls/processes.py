"""A user's function in processes of its own, which can be ended when it hangs."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from posteriori.errors import ConfigError, EvidenceCallError, EvidenceError

from .pools import Reply, Request, reply

_GUARD = 'a script needs its work under if __name__ == "__main__":'


class ProcessSlot:
    """One process that is kept from call to call: started when it is first needed, and again after
    it died or was killed.

    Processes are spawned, not forked: a fork of a process that runs threads, as torch does, can
    hang. So the function has to be picklable, and its module is imported once a process. Raises
    `ConfigError` for one that is not.
    """

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        try:
            pickle.dumps(fn)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"pool='process' needs a function that can be pickled: {error}",
                where=name,
                hint="define it at the top of a module, or use pool='thread'",
            ) from error
        self.fn, self.name = fn, name
        self._process: Any = None
        self._connection: Any = None
        self._ready = False
        # Two threads that wait for one process would take its exit code from each other.
        self._ending = threading.Lock()

    def __reduce__(self) -> tuple[type[ProcessSlot], tuple[Callable[..., Any], str]]:
        # A copy starts a process of its own.
        return ProcessSlot, (self.fn, self.name)

    def wait(self) -> None:
        """Until the process has imported the function."""
        if self._ready:
            return
        try:
            self._connection.recv()
        except (EOFError, OSError) as error:
            code = self._exit_code(self._process)
            raise EvidenceError(
                f"its process ended with code {code} before it was ready",
                where=self.name,
                hint=f"its own message is above; {_GUARD}",
            ) from error
        self._ready = True

    def start(self) -> None:
        """Start the process, if there is none that runs."""
        with self._ending:
            if self._process is not None and self._process.is_alive():
                return
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, self.fn), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False
        weakref.finalize(self, self._process.kill)

    def call(self, request: Request) -> Reply | EvidenceError:
        process, connection = self._process, self._connection
        try:
            connection.send(request)
            return connection.recv()
        except (EOFError, OSError):
            return EvidenceCallError(
                f"its process ended with code {self._exit_code(process)}",
                where=self.name,
                hint="it crashed, called exit, or was killed (for memory?)",
            )
        except Exception as error:  # what cannot be pickled raises whatever its class likes
            return EvidenceError(
                f"its arguments cannot be sent to a process: {type(error).__name__}: {error}",
                where=self.name,
                hint="leave such columns out, or use pool='thread'",
            )

    def abandon(self) -> None:
        """Kill the process; the next `start` makes another."""
        self._process.kill()
        self._exit_code(self._process)

    def _exit_code(self, process: Any) -> int | None:
        """Of a process that ends, or has ended."""
        with self._ending:
            process.join()
            return process.exitcode


def _serve(connection: Connection, fn: Callable[..., Any]) -> None:
    # An interrupt from the terminal reaches every process; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send("ready")
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        result = reply(fn, request)
        try:
            connection.send(result)
        except Exception as error:  # an answer that cannot be pickled
            connection.send(
                EvidenceError(
                    f"its answer cannot be sent back: {type(error).__name__}: {error}",
                    where=request.name,
                    hint="return plain numbers",
                )
            )

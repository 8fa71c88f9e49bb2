"""Ray actors as an `Executor`: Ray starts them, gives them work, and starts them again.

Rows are cut into pieces of a fixed number, whoever does them, and a piece is a function of its rows
alone. So the result is the same to the bit for any number of actors, and when some of them die.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from posteriori.errors import ConfigError, DistributedError

from .ray_package import ray_module
from .ray_worker import Failed, Piece, RayWorker
from .sending import Sender

T = TypeVar("T")

_TRIES = 24
"""How often a piece is begun again after the actor that did it has died."""


class RayPool:
    """Actors of a local cluster, which is made for them, or of the one at `address`.

    Where the program is connected to Ray already, that connection is used, and left as it is.
    """

    def __init__(
        self,
        actors: int | None,
        address: str | None,
        cpus_per_actor: int,
        gpus_per_actor: float,
        start_timeout: float,
    ) -> None:
        self._ray: Any = ray_module()
        self._connected_here = False
        self._sigterm: Any = None
        self.actors: list[Any] = []
        try:
            self._connect(actors, address, cpus_per_actor)
            number = actors or self._fitting(cpus_per_actor, gpus_per_actor)
            made = self._ray.remote(RayWorker).options(
                num_cpus=cpus_per_actor,
                num_gpus=gpus_per_actor,
                max_restarts=-1,
                max_task_retries=_TRIES,
            )
            self.actors = [made.remote(cpus_per_actor, sys.path) for _ in range(number)]
            self._wait(start_timeout)
        except BaseException:
            self.close()
            raise

    def map(
        self,
        number: int,
        work: Callable[[slice], T],
        rows: int,
        sender: Sender,
        seed: str,
        on_done: Callable[[int], None],
    ) -> list[T]:
        """What `work` returns for each `rows` of `number` rows, in order; `on_done` hears how many
        rows were done. Raises the error of the first rows that have one."""
        sent = sender.send(work)
        places = dict(sender.places)
        pieces = [
            Piece(sent, start, min(start + rows, number), seed) for start in range(0, number, rows)
        ]
        pool = ray_module("ray.util").ActorPool(self.actors)
        found: dict[int, Any] = {}
        failed: dict[int, Exception] = {}
        begun = 0
        try:
            while True:
                # Rows before those that failed have all been begun, and their error comes first.
                while begun < len(pieces) and not failed and pool.has_free():
                    pool.submit(_begin(begun, places), pieces[begun])
                    begun += 1
                if not pool.has_next():
                    break
                at, outcome = pool.get_next_unordered()
                if isinstance(outcome, Failed):
                    failed[at] = outcome.error
                else:
                    found[at] = outcome
                    on_done(pieces[at].stop - pieces[at].start)
        except self._ray.exceptions.RayError as error:
            raise DistributedError(
                f"the actors could not finish: {_first_line(error)}",
                where="Ray",
                hint="an actor that dies each time it begins the same piece may have too little "
                "memory: lower rows_per_task or memory_gib",
            ) from error
        finally:
            sender.forget(sent)
        if failed:
            raise failed[min(failed)]
        return [found[at] for at in range(len(pieces))]

    def put(self, data: bytes) -> Any:
        return self._ray.put(data)

    def close(self) -> None:
        """End the actors, and the local cluster, if this made one."""
        if self._ray.is_initialized():
            for actor in self.actors:
                self._ray.kill(actor)
        self.actors = []
        if self._connected_here:
            self._connected_here = False
            self._ray.shutdown()
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
            self._sigterm = None

    def _connect(self, actors: int | None, address: str | None, cpus: int) -> None:
        if self._ray.is_initialized():
            if address is not None:
                raise ConfigError(
                    f"the address '{address}' is given, and this program is connected to Ray "
                    "already",
                    where="Ray",
                    hint="leave out the address, or call ray.shutdown() before",
                )
            return
        options: dict[str, Any] = {"address": address}
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            number = None if actors is None else actors * cpus
            options = {"address": "local", "num_cpus": number, "include_dashboard": False}
        try:
            before = signal.getsignal(signal.SIGTERM)
            # What users' functions print would come between the lines of a command's result.
            self._ray.init(**options, logging_level="error", log_to_driver=False)
        except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
            where = "a local cluster" if address is None else f"the cluster at '{address}'"
            raise DistributedError(
                f"{where} cannot be reached: {_first_line(error)}",
                where="Ray",
                hint="see `ray status`; start one with `ray start --head`, or leave out the address"
                if address
                else "see the logs in /tmp/ray/session_latest/logs",
            ) from error
        self._connected_here = True
        if signal.getsignal(signal.SIGTERM) is not before:
            # Ray's own handler ends the cluster with the program. One that was there does more.
            if before is signal.SIG_DFL:
                self._sigterm = before
            else:
                signal.signal(signal.SIGTERM, before)

    def _fitting(self, cpus: int, gpus: float) -> int:
        """As many as the cluster holds."""
        there = self._ray.cluster_resources()
        number = int(there.get("CPU", 0) // cpus)
        return max(1, min(number, int(there.get("GPU", 0) // gpus)) if gpus else number)

    def _wait(self, timeout: float) -> None:
        waiting = [actor.ready.remote() for actor in self.actors]
        try:
            done, late = self._ray.wait(waiting, num_returns=len(waiting), timeout=timeout)
            self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            raise DistributedError(
                f"an actor cannot start: {_first_line(error)}",
                where="Ray",
                hint="posteriori, and the modules of your functions, have to be installed on every "
                "machine of the cluster",
            ) from error
        if late:
            there = self._ray.cluster_resources()
            room = f"{there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs"
            raise DistributedError(
                f"{len(late)} of {len(waiting)} actors have not started in {timeout:g} seconds; "
                f"the cluster has {room}",
                where="Ray",
                hint="ask for fewer actors, or for less per actor, or set a longer start_timeout",
            )


def _begin(at: int, places: dict[int, Any]) -> Callable[[Any, Piece], Any]:
    def begin(actor: Any, piece: Piece) -> Any:
        return actor.run.remote(at, piece, places)

    return begin


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]

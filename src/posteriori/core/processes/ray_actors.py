"""Ray's actors for the verbs that spread their work over them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Self, TypeAlias, TypeVar

from posteriori.core.run.progress import advance
from posteriori.core.seeds import derive
from posteriori.core.settings.combined import combined
from posteriori.core.settings.ray import RayConfig
from posteriori.distributed.environment import require_one
from posteriori.distributed.executor import spread_over
from posteriori.distributed.ray_pool import RayPool
from posteriori.distributed.sending import Sender
from posteriori.errors import ConfigError

T = TypeVar("T")


class RayActors:
    """Ray's actors, kept from one call to the next: processes on this machine or on many.

    What is drawn, scored and judged is cut into pieces of `rows_per_task` completions. Each is a
    function of its rows and their random numbers alone, so the result is the same to the bit for
    any number of actors, and when some of them die: Ray starts them again. It is the result without
    Ray, up to rounding.

    Args:
        actors: how many, as in `RayConfig`.
        config: the settings, as one object.
        settings: or its fields, as keywords.

    Raises:
        ConfigError: for a wrong setting, and where Ray is not installed.
        DistributedError: where the cluster is not there, or has no room.

    Example:
        >>> with po.RayActors(2) as actors:  # doctest: +SKIP
        ...     draws = po.sample(target, num_samples=1000, ray=actors)
        ...     report = po.evaluate(target, policy, ray=actors)
    """

    def __init__(
        self, actors: int | None = None, *, config: RayConfig | None = None, **settings: Any
    ) -> None:
        if actors is not None:
            settings["actors"] = actors
        self.config = combined(RayConfig, config, settings, "config", "RayActors")
        require_one("Ray", "start the program without torchrun, accelerate launch or --processes")
        self._pool = RayPool(
            self.config.actors,
            self.config.address,
            self.config.cpus_per_actor,
            self.config.gpus_per_actor,
            self.config.start_timeout,
        )

    def __len__(self) -> int:
        return len(self._pool.actors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and the cluster of this machine that was started for them."""
        self._pool.close()

    @contextmanager
    def working(self, seed: int) -> Generator[None]:
        """Inside, rows are done by the actors; models and functions do not change meanwhile."""
        if not self._pool.actors:
            raise ConfigError("these actors are closed", where="ray", hint="make new ones")
        with spread_over(_Verb(self._pool, self.config.rows_per_task, seed)):
            yield


class _Verb:
    """The executor of one call."""

    def __init__(self, pool: RayPool, rows: int, seed: int) -> None:
        self._pool, self._rows, self._seed = pool, rows, seed
        self._sender = Sender(pool.put)
        self._calls = 0

    def map(self, number: int, work: Callable[[slice], T]) -> list[T]:
        self._calls += 1
        seed = str(derive(self._seed, "ray", self._calls))
        return self._pool.map(number, work, self._rows, self._sender, seed, advance)


Ray: TypeAlias = "RayActors | RayConfig | int | None"
"""Actors that are there, settings of new ones, or how many; None: without Ray."""


@contextmanager
def spread(ray: Ray, seed: int) -> Generator[None]:
    """Inside, rows are done by Ray's actors, if any are asked for."""
    if ray is None:
        yield
    elif isinstance(ray, RayActors):
        with ray.working(seed):
            yield
    else:
        config = (
            ray
            if isinstance(ray, RayConfig)
            else combined(RayConfig, None, {"actors": ray}, "config", "ray")
        )
        with RayActors(config=config) as actors, actors.working(seed):
            yield

"""Settings of Ray, which spreads `sample`, `evaluate` and `frontier` over actors."""

from __future__ import annotations

from pydantic import Field

from .strict import Strict


class RayConfig(Strict):
    """How the work of `sample`, `evaluate` and `frontier` is spread over Ray's actors.

    Args:
        actors: how many; left out, as many as the cluster has room for.
        address: of a cluster that runs ("10.0.0.1:6379", "ray://10.0.0.1:10001", "auto"); left out,
            one is started on this machine, and ended with the work.
        cpus_per_actor: CPU cores, and so threads, of each.
        gpus_per_actor: GPUs of each, or a share of one. The models have to be on a GPU already.
        rows_per_task: completions that are drawn, scored or judged as one piece of work. Rounding
            depends on it, and never on the number of actors.
        start_timeout: seconds in which all actors have to be there.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.RayConfig(actors=4).rows_per_task
        64
    """

    actors: int | None = Field(default=None, ge=1, le=65536)
    address: str | None = Field(default=None, min_length=1)
    cpus_per_actor: int = Field(default=1, ge=1, le=4096)
    gpus_per_actor: float = Field(default=0.0, ge=0, le=1024)
    rows_per_task: int = Field(default=64, ge=1)
    start_timeout: float = Field(default=300.0, gt=0)

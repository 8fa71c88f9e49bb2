"""What a launcher (torchrun, accelerate launch, Slurm with either) has said of this process."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

from posteriori.errors import DistributedError

_HINT = "start it with torchrun, accelerate launch or `posteriori fit --processes N`"


class Launched(NamedTuple):
    """This process among all, and among those of its machine."""

    rank: int
    size: int
    local_rank: int


def launched() -> Launched | None:
    """None where this is the only process. A program that has made torch's process group itself has
    said it by that. Raises `DistributedError` for half an announcement."""
    made = _made_already()
    if made is not None:
        return made if made.size > 1 else None
    size = _number("WORLD_SIZE")
    if size is None or size == 1:
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise DistributedError(
            f"WORLD_SIZE={size} announces several processes, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set",
            hint=f"{_HINT}; or unset WORLD_SIZE to run one process",
        )
    rank = _number("RANK")
    assert rank is not None
    if not 0 <= rank < size:
        raise DistributedError(f"RANK={rank} is none of WORLD_SIZE={size} processes", hint=_HINT)
    return Launched(rank, size, _number("LOCAL_RANK") or 0)


def require_one(what: str, hint: str) -> None:
    """Raise `DistributedError` where several processes were launched: each would do all of it."""
    there = launched()
    if there is not None:
        raise DistributedError(
            f"{what} runs in one process, and {there.size} were launched", hint=hint
        )


def _made_already() -> Launched | None:
    """From torch's process group, where there is one; torch is not imported to find out."""
    dist: Any = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    rank = dist.get_rank()
    local = _number("LOCAL_RANK")
    return Launched(rank, dist.get_world_size(), rank if local is None else local)


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        value = int(text)
        if name == "WORLD_SIZE" and value < 1:
            raise ValueError
    except ValueError:
        raise DistributedError(f"{name}={text!r} is no number of processes", hint=_HINT) from None
    return value

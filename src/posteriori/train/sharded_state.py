"""What of a checkpoint is cut over processes: written and read by torch.distributed.checkpoint.

Every process writes its own part, into files that do not depend on how many there were. What reads
them may be another number of processes, or one that holds whole tensors. All processes have to see
the run's directory.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posteriori.distributed.sharding import cut_like_all, is_cut
from posteriori.distributed.world import current
from posteriori.errors import CheckpointError

FOLDER = "sharded"
_DCP = "torch.distributed.checkpoint"
_PLACE = "is in the sharded part under"


def taken_out(value: Any, cut: dict[str, Tensor], name: str = "") -> Any:
    """`value` with each tensor that is cut replaced by the name under which it is in `cut`."""
    if isinstance(value, Tensor):
        if not is_cut(value):
            return value
        cut[name] = value
        return {_PLACE: name}
    if isinstance(value, Mapping):
        items = {key: taken_out(each, cut, f"{name}.{key}") for key, each in value.items()}
        same = all(items[key] is each for key, each in value.items())
        return value if same else items
    if type(value) in (list, tuple):
        return type(value)(taken_out(each, cut, f"{name}.{at}") for at, each in enumerate(value))
    return value


def put_in(value: Any, found: Mapping[str, Tensor]) -> Any:
    """What `taken_out` was given."""
    if isinstance(value, Mapping):
        if set(value) == {_PLACE}:
            return found[value[_PLACE]]
        items = {key: put_in(each, found) for key, each in value.items()}
        same = all(items[key] is each for key, each in value.items())
        return value if same else items
    if type(value) in (list, tuple):
        return type(value)(put_in(each, found) for each in value)
    return value


def write(folder: Path, cut: dict[str, Tensor]) -> None:
    """By all processes together. Raises `CheckpointError` in all where one cannot."""
    dcp: Any = importlib.import_module(_DCP)

    world = current()
    assert world is not None
    errors: list[BaseException] = []

    def save() -> None:
        try:
            dcp.save(cut, checkpoint_id=str(folder), process_group=world.group)
        except dcp.CheckpointException as error:
            errors.append(error)

    world.guarded(save)
    if errors:
        raise CheckpointError(
            f"the checkpoint cannot be written: {_first(errors[0])}",
            where=str(folder),
            hint="make room; all processes have to see the run's directory",
        ) from errors[0]


def read(folder: Path, *, cut: bool) -> dict[str, Tensor]:
    """All of its tensors: whole, or `cut` over the processes, which then read together.

    Raises `CheckpointError` where they cannot be read.
    """
    dcp: Any = importlib.import_module(_DCP)

    errors: list[BaseException] = []
    found: dict[str, Tensor] = {}
    world = current() if cut else None

    def load() -> None:
        try:
            about = dcp.FileSystemReader(str(folder)).read_metadata().state_dict_metadata
            for name, each in about.items():
                size, dtype = each.size, each.properties.dtype  # pyright: ignore
                found[name] = cut_like_all(size, dtype) if cut else torch.empty(size, dtype=dtype)
            group = None if world is None else world.group
            with warnings.catch_warnings():
                # That it reads in one process is meant.
                warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
                dcp.load(
                    found, checkpoint_id=str(folder), process_group=group, no_dist=world is None
                )
        except (dcp.CheckpointException, OSError) as error:
            errors.append(error)

    if world is None:
        load()
    else:
        world.guarded(load)
    if errors:
        raise CheckpointError(
            f"the sharded part of a checkpoint cannot be read: {_first(errors[0])}",
            where=str(folder),
            hint="all processes have to see the run's directory",
        ) from errors[0]
    return found


def _first(error: BaseException) -> str:
    failures = getattr(error, "failures", None)
    cause = next(iter(failures.values()))[0] if failures else error
    return (str(cause).splitlines() or [type(cause).__name__])[0]

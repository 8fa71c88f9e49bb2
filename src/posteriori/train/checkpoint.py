"""Checkpoints: policy, optimiser, the objective's state, random states, in one atomic folder."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import CheckpointError
from ..protocols import TrainableLM

_PREFIX = "step-"


class Running(NamedTuple):
    """What of a run a checkpoint holds; `others` is anything that `torch.save` writes as data."""

    policy: TrainableLM
    optimizer: torch.optim.Optimizer
    others: dict[str, Any]


def save_checkpoint(folder: Path, step: int, running: Running, keep: int) -> Path:
    """Write `folder/step-N` for a run with N finished steps; older ones beyond `keep` go.

    The folder is written under another name, flushed to disk and then renamed, so a folder that
    has its name is complete.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    if final.exists():
        return final
    try:
        _write(folder, final, step, running)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be written: {error}",
            where=str(final),
            hint="make room; the checkpoint before it is whole, and the run resumes from there",
        ) from error
    for old in _finished(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def _write(folder: Path, final: Path, step: int, running: Running) -> None:
    incoming = folder / f".incoming-{step:08d}"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    state = {name: tensor.contiguous() for name, tensor in running.policy.trained_state().items()}
    save_file(state, incoming / "policy.safetensors")
    torch.save(running.optimizer.state_dict(), incoming / "optimizer.pt")
    torch.save(running.others, incoming / "others.pt")
    torch.save(_random_state(), incoming / "random.pt")
    (incoming / "state.json").write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
    for file in incoming.iterdir():
        _flush(file)
    _flush(incoming)
    os.replace(incoming, final)
    _flush(folder)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    finished = _finished(folder)
    return finished[-1] if finished else None


def load_checkpoint(
    path: Path, policy: TrainableLM, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]]:
    """Put policy, optimiser and random states back; returns the finished steps and `others`."""
    try:
        step = int(json.loads((path / "state.json").read_text(encoding="utf-8"))["step"])
        state = load_file(path / "policy.safetensors", device=str(policy.device))
        optimizer_state = torch.load(
            path / "optimizer.pt", weights_only=True, map_location=policy.device
        )
        others = torch.load(path / "others.pt", weights_only=True, map_location=policy.device)
        random_state = torch.load(path / "random.pt", weights_only=True)
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        raise CheckpointError(
            f"the checkpoint cannot be read: {error}",
            where=str(path),
            hint="delete that folder to resume from the one before it",
        ) from error
    policy.load_trained_state(state)
    optimizer.load_state_dict(optimizer_state)
    _restore_random_state(random_state)
    return step, others


def _finished(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _random_state() -> dict[str, object]:
    """The global streams: the loop has its own, but users' reward functions may draw from these."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "python": [version, list(words), gauss],
        "numpy": numpy,
        "torch": torch.get_rng_state(),
    }


def _restore_random_state(state: dict) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    numpy["state"]["key"] = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy)
    torch.set_rng_state(state["torch"])


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

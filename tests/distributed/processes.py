"""Several processes on this machine, each of which runs jobs of `jobs.py`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
_TESTS = HERE.parent
SOURCE = _TESTS.parent / "src"


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would say."""
    return {
        **alone(),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def alone() -> dict[str, str]:
    """That of a single process."""
    paths = [str(HERE), str(_TESTS), str(SOURCE), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(size: int, folder: Path, *jobs: str, **more: str) -> list[subprocess.Popen[str]]:
    """A process per rank, with `more` in its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / "jobs.py"), str(folder), *jobs],
            env={**environment(rank, size, port), **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finished(processes: list[subprocess.Popen[str]], seconds: float) -> list[tuple[int, str]]:
    """Exit code and standard error of each. Raises where they take longer together."""
    found, end = [], time.monotonic() + seconds
    try:
        for process in processes:
            _, errors = process.communicate(timeout=max(0.1, end - time.monotonic()))
            found.append((process.returncode, errors))
    finally:
        for process in processes:
            process.kill()
    return found


def results_of(size: int, folder: Path, *jobs: str, **more: str) -> list[dict[str, Any]]:
    """What every job returned in each process."""
    for code, errors in finished(start(size, folder, *jobs, **more), seconds=280):
        assert code == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def furthest(one: Any, other: Any) -> float:
    """The largest difference between numbers at the same place; infinite where anything else is not
    the same. Numbers above 1 in size count relatively."""
    if isinstance(one, torch.Tensor):
        if one.shape != other.shape:
            return float("inf")
        if not one.is_floating_point():
            return 0.0 if torch.equal(one, other) else float("inf")
        gap = (one.double() - other.double()).abs() / one.double().abs().clamp(min=1.0)
        same = (one == other) | (one.isnan() & other.isnan())
        return (
            float(gap.masked_fill(same, 0.0).nan_to_num(nan=float("inf")).max())
            if len(gap.reshape(-1))
            else 0.0
        )
    if isinstance(one, float):
        return furthest(torch.tensor(one).double(), torch.tensor(other).double())
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return float("inf")
        return max((furthest(value, other[key]) for key, value in one.items()), default=0.0)
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return float("inf")
        return max((furthest(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    return 0.0 if one == other else float("inf")

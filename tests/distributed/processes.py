"""Several processes on this machine, each of which runs jobs of `jobs.py`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
_TESTS = HERE.parent


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would say."""
    paths = [str(HERE), str(_TESTS), str(_TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(size: int, folder: Path, *jobs: str) -> list[subprocess.Popen[str]]:
    """A process per rank; `results_of` waits for them."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / "jobs.py"), str(folder), *jobs],
            env=environment(rank, size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finished(processes: list[subprocess.Popen[str]], seconds: float) -> list[tuple[int, str]]:
    """Exit code and standard error of each; one that takes longer is a failure."""
    found = []
    try:
        for process in processes:
            _, errors = process.communicate(timeout=seconds)
            found.append((process.returncode, errors))
    finally:
        for process in processes:
            process.kill()
    return found


def results_of(size: int, folder: Path, *jobs: str, seconds: float = 120) -> list[dict[str, Any]]:
    """What every job returned in each process."""
    for code, errors in finished(start(size, folder, *jobs), seconds):
        assert code == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]

"""Whole runs on a device that is not the CPU: no tensor is made on the wrong one, and the numbers
are those of the CPU. (The device is pretended, see `pretend_device.py`; `tests/gpu` has one.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from objective_cases import CASES

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "src"
ROUNDING = 1e-4
"""Of float32, in another order of sums; a draw that is another one shows as a thousandth."""

QUICK = ("lora:llama", "objective:ppo", "sampler:smc")
OBJECTIVES = tuple(dict.fromkeys(f"objective:{case.name}" for case in CASES))
SAMPLERS = ("importance", "rejection", "best_of_n", "soft_best_of_n", "qrs", "annealed", "mh")
OTHERS = ("verbs:", "lora:gpt2", *(f"sampler:{name}" for name in (*SAMPLERS, "imh", "power")))


def found(*jobs: str) -> dict[str, dict]:
    """What each job found, in a process of their own."""
    paths = [str(HERE), str(HERE.parents[1]), str(SOURCE), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, str(HERE / "device_jobs.py"), *jobs],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def check(job: str, of_job: dict) -> None:
    assert "there" in of_job, f"{job}: {of_job.get('where') or of_job['failed']}"
    assert len(of_job["here"]) == len(of_job["there"]) > 0
    for here, there in zip(of_job["here"], of_job["there"], strict=True):
        assert there == pytest.approx(here, abs=ROUNDING), job


def check_all(jobs: tuple[str, ...]) -> None:
    # One process for all: it takes longer to start than most of them take.
    results = found(*jobs)
    for job in jobs:
        check(job, results[job])


@pytest.mark.long
def test_a_sum_of_tensors_on_two_devices_is_found_and_runs_have_none():
    results = found("mixes:", *QUICK)
    assert "add of tensors on two devices" in results["mixes:"]["wrong"]
    for job in QUICK:
        check(job, results[job])


@pytest.mark.long
def test_every_objective_stays_on_its_device():
    check_all(OBJECTIVES)


@pytest.mark.long
def test_samplers_and_verbs_stay_on_their_device():
    check_all(OTHERS)

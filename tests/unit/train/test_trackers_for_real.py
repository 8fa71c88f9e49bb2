"""W&B, trackio and MLflow themselves, offline: what a run sends arrives, and changes nothing.

Each run is a process of its own, and so is each reader (`tracker_readers`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tracker_readers
from helpers import OracleCase

# Every run is a process that loads all there is: seconds, or a minute where the machine is busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRACKERS = ("wandb", "trackio", "mlflow")
STEPS = 4

CONFIG = """\
output_dir = "run"
prompts = {prompts}
max_new_tokens = 4

[prior]
path = "{prior}"

[[evidence]]
kind = "reward"
function = "my_reward.py:score"
beta = 0.5

[fit]
objective = "rloo"
steps = 4
num_samples = 8
learning_rate = 1e-2
evaluate_every = 2
{tracker}
[evaluate]
num_samples = 20
"""

REWARD = '''\
"""Counts b's; logs a draw of each global stream, which a tracker must not move."""

import os
import random
import signal

import numpy as np
import torch

random.seed(0)
np.random.seed(0)
torch.manual_seed(0)


def score(completion_ids, trainer_state, log_metric, **kwargs):
    log_metric("noise/python", random.random())
    log_metric("noise/numpy", np.random.rand())
    log_metric("noise/torch", torch.rand(()).item())
    if trainer_state.global_step == int(os.environ.get("INTERRUPTED_AT", -1)):
        os.kill(os.getpid(), signal.SIGINT)
    if trainer_state.global_step == int(os.environ.get("ODDLY_NAMED_AT", -1)):
        log_metric("share of b @ 1 #", 1.0)
    return [float(sum(t == 2 for t in y)) for y in completion_ids]
'''

START = "from posteriori.cli.main import main; main()"


class Run:
    """A folder with a job, and `posteriori fit` on it."""

    def __init__(self, folder: Path, tracker: str | None) -> None:
        case = OracleCase("case_1")
        line = "" if tracker is None else f'tracker = "{tracker}"\n'
        config = CONFIG.format(prompts=json.dumps(case.prompts), prior=case.path, tracker=line)
        (folder / "run.toml").write_text(config)
        (folder / "my_reward.py").write_text(REWARD)
        self.folder, self.tracker = folder, tracker

    def fit(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {} if self.tracker is None else tracker_readers.environment(self.tracker, self.folder)
        return subprocess.run(
            [sys.executable, "-c", START, "fit", "run.toml", "--json", "-q", *arguments],
            cwd=self.folder,
            env=os.environ | own | variables,
            capture_output=True,
            text=True,
            timeout=240,
        )

    @property
    def weights(self) -> bytes:
        return (self.folder / "run" / "policy" / "model.safetensors").read_bytes()

    def lines(self, name: str) -> list[dict]:
        text = (self.folder / "run" / f"{name}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def tracked(self) -> list[dict]:
        """What the tracker has, the oldest run first."""
        assert self.tracker is not None
        told = subprocess.run(
            [sys.executable, tracker_readers.__file__, self.tracker, str(self.folder)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return json.loads(told.stdout.splitlines()[-1])


def there(tracker: str) -> str:
    """The tracker, or a skip."""
    pytest.importorskip(tracker, reason=f"needs {tracker}: pip install 'posteriori[{tracker}]'")
    return tracker


@pytest.fixture(scope="module", params=TRACKERS)
def tracker(request) -> str:
    """Of the same scope as `plain`, and before it: a skip costs no run."""
    return there(request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Run:
    """A run without a tracker."""
    run = Run(tmp_path_factory.mktemp("plain"), None)
    assert run.fit().returncode == 0
    return run


def series_of(lines: list[dict], name: str, value) -> list[list]:
    return [[line["step"], pytest.approx(value(line), abs=1e-12)] for line in lines if name in line]


def check_arrived(run: Run, found: dict, first: int = 0) -> None:
    """Every number of every line since step `first`, at its step."""
    steps = [line for line in run.lines("metrics") if line["step"] >= first]
    names = [name for name in steps[0] if name != "step"]
    assert {"elbo", "kl_to_prior", "loss", "noise/python"} <= set(names)
    for name in names:
        assert found["series"][name] == series_of(steps, name, lambda line, name=name: line[name])
    looks = run.lines("evaluations")
    looks = [line for line in looks if line["step"] > first or line["step"] == first == 0]
    assert len(looks) == 3 if first == 0 else 1
    for name in ("kl_to_target", "wasted_nats", "log_z"):
        wanted = series_of(looks, name, lambda line, name=name: line[name]["value"])
        assert found["series"][f"evaluation/{name}"] == wanted


def test_all_of_a_run_arrives_and_the_run_is_the_same(tracker, plain, tmp_path):
    run = Run(tmp_path, tracker)
    done = run.fit()
    assert done.returncode == 0, done.stderr
    # Standard output has the result alone, whatever the tracker says.
    assert json.loads(done.stdout)["policies"]
    assert run.weights == plain.weights
    for ours, theirs in zip(run.lines("metrics"), plain.lines("metrics"), strict=True):
        noise = [name for name in ours if name.startswith("noise/")]
        assert len(noise) == 3
        assert all(ours[name] == theirs[name] for name in (*noise, "loss", "grad_norm"))
    (found,) = run.tracked()
    check_arrived(run, found)
    assert found["status"].lower() == "finished"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for name, value in config.items():
        told = value if isinstance(value, str | int | float) else json.dumps(value)
        if value is None:
            assert name not in found["config"]
        else:
            assert str(found["config"][name]) == str(told)


def test_an_interrupted_run_is_kept_and_goes_on(tracker, plain, tmp_path):
    run = Run(tmp_path, tracker)
    done = run.fit(INTERRUPTED_AT="3")
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    (found,) = run.tracked()
    check_arrived_until(run, found)
    again = run.fit("--resume")
    assert again.returncode == 0, again.stderr
    assert run.weights == plain.weights
    runs = run.tracked()
    assert len(runs) == 2
    (later,) = [each for each in runs if [s for s, _ in each["series"]["loss"]][:2] != [0, 1]]
    check_arrived(run, later, first=3)


def check_arrived_until(run: Run, found: dict) -> None:
    wanted = series_of(run.lines("metrics"), "loss", lambda line: line["loss"])
    assert [step for step, _ in wanted] == [0, 1, 2]
    assert found["series"]["loss"] == wanted
    assert [step for step, _ in found["series"]["evaluation/kl_to_target"]] == [0, 2]


def test_a_name_that_mlflow_refuses_is_a_typed_error(tmp_path):
    there("mlflow")
    run = Run(tmp_path, "mlflow")
    done = run.fit(ODDLY_NAMED_AT="1")
    assert done.returncode == 2
    assert "mlflow cannot log step 1: " in done.stderr
    assert "share of b @ 1 #" in done.stderr
    assert (tmp_path / "run" / "checkpoints").is_dir()
    assert run.fit("--resume").returncode == 0

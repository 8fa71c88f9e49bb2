"""What goes wrong in one process is said by all, and nobody waits for a process that has died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from jobs import target
from processes import environment, finished, free_port, results_of, start

import posteriori as po
from posteriori.distributed import joining
from posteriori.distributed.environment import Launched
from posteriori.errors import DistributedError

PATIENCE = 30.0


@pytest.mark.long
def test_all_say_what_one_of_them_meets(tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "config.json").write_text("{}")
    results = [each["refusals"] for each in results_of(2, tmp_path, "refusals")]
    for found in results:
        assert found["evidence"][0] == "EvidenceCallError"
        assert "no such file" in found["evidence"][1]
        assert found["seeds"][0] == "ConfigError"
        assert "seed=1" in found["seeds"][1]
        assert found["taken"] == ("CheckpointError", results[0]["taken"][1])
        assert "already holds a run" in found["taken"][1]
        assert found["still works"] == ("", "it went through")
        assert all("\n" not in message for _, message in found.values())


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_the_others(victim, tmp_path):
    """They say which, and leave a checkpoint from which fewer go on."""
    running = start(2, tmp_path, "long_run")
    _wait_for(tmp_path / "run" / "checkpoints" / "step-00000002", running)
    running[victim].send_signal(signal.SIGKILL)
    died = time.monotonic()
    codes = finished(running, PATIENCE)
    assert time.monotonic() - died < PATIENCE
    code, errors = codes[1 - victim]
    assert code != 0
    assert f"process {victim} of 2" in errors, errors
    assert str(running[victim].pid) in errors
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(len(lines)))
    (tmp_path / "step-0").unlink()
    again = start(1, tmp_path, "long_run")
    try:
        _wait_for(tmp_path / "step-0", again, written=True)
        assert int((tmp_path / "step-0").read_text()) > 0
    finally:
        again[0].kill()
        again[0].communicate()


def _wait_for(path, running, seconds=120.0, written=False):
    end = time.monotonic() + seconds
    while not path.exists() or (written and not path.read_text()):
        assert time.monotonic() < end
        for each in running:
            assert each.poll() is None, each.communicate()[1]
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT are not set"),
        ({"WORLD_SIZE": "two"}, "no number of processes"),
        (
            {"WORLD_SIZE": "2", "RANK": "5", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK=5",
        ),
    ],
)
def test_half_an_announcement_is_an_error_at_once(given, said, monkeypatch):
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(DistributedError, match=said):
        po.sample(target(), num_samples=2)


class TestLeftovers:
    """What a launcher has left in the environment announces processes that are not there."""

    @pytest.fixture(autouse=True)
    def announced(self, monkeypatch):
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(free_port()))
        monkeypatch.setattr(joining, "_SILENT", 0.05)

    def test_no_other_process_has_the_rank(self, monkeypatch):
        monkeypatch.setattr(joining, "_APPEARING", 0.3)
        whole = joining._started_with
        monkeypatch.setattr(
            joining, "_started_with", lambda at: {"RANK": "0"} if at == "self" else whole(at)
        )
        with pytest.raises(DistributedError, match="there is none with RANK=1; unset WORLD_SIZE"):
            joining.join_group("gloo", Launched(0, 2, 0))

    @pytest.mark.parametrize("rank", [0, 1])
    def test_nobody_comes(self, monkeypatch, capsys, rank):
        monkeypatch.setattr(joining, "_UNLAUNCHED", timedelta(seconds=1))
        with pytest.raises(DistributedError, match="did not find the others"):
            joining.join_group("gloo", Launched(rank, 2, rank))
        assert f"process {rank} of 2 waits for the others" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fit_reward", "fit_twist"])
def test_what_one_process_does_is_refused_by_several(name, monkeypatch):
    announced = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for variable, value in announced.items():
        monkeypatch.setenv(variable, value)
    given = {"fit_reward": ("tiny", []), "fit_twist": (target(),)}[name]
    with pytest.raises(DistributedError, match=f"{name} runs in one process, and 2 were launched"):
        getattr(po, name)(*given)


def test_a_verb_of_one_process_refuses_in_one_line(tmp_path):
    port = free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "posteriori", "report", str(tmp_path)],
            env=environment(rank, 2, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank, (code, errors) in enumerate(finished(running, 120)):
        assert code in (1, 2)
        assert "runs in one process, and 2 were launched" in errors
        assert len(errors.strip().splitlines()) == 1
        assert ("process 1 of 2" in errors) == (rank == 1)
    assert os.listdir(tmp_path) == []

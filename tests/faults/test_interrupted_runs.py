"""Runs that are killed, stopped or damaged: what is left, and what resuming makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import victim
from safetensors.torch import load_file

import posteriori as po
from posteriori.errors import CheckpointError, EvidenceError
from posteriori.train import fit as fit_module
from posteriori.train.checkpoint import latest_checkpoint

TIMES = ("seconds", "draw_seconds")


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def assert_same_run(run: Path, reference: Path) -> None:
    """Bit-identical weights, metrics, optimiser and random states."""
    assert metrics(run) == metrics(reference)
    mine, theirs = (latest_checkpoint(path / "checkpoints") for path in (run, reference))
    assert mine.name == theirs.name
    for file in ("policy.safetensors", "random.pt", "optimizer.pt", "others.pt"):
        assert (mine / file).read_bytes() == (theirs / file).read_bytes(), file
    weights = next((run / "policy").glob("*.safetensors")).name
    a, b = (load_file(path / "policy" / weights) for path in (run, reference))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.long
@pytest.mark.moves_rng
@pytest.mark.parametrize(
    ("policy", "moment"), [("full", "6"), ("lora", "checkpoint"), ("full", "metrics")]
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, policy, moment):
    command = [sys.executable, victim.__file__, str(tmp_path / "killed"), policy, moment]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len((tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()) < victim.STEPS
    if moment == "checkpoint":
        assert list((tmp_path / "killed" / "checkpoints").glob(".incoming-*"))

    resumed = victim.train(tmp_path / "killed", policy, resume=True)
    whole = victim.train(tmp_path / "whole", policy)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert [line["step"] for line in resumed.history] == list(range(victim.STEPS))
    mine, theirs = resumed.policy.trained_state(), whole.policy.trained_state()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.fixture
def table_target(table) -> po.Target:
    return po.Target(table, po.Reward(count_a, beta=1.0), table.prompts, 3)


def count_a(completions, **kwargs):
    return [float(text.count("a")) for text in completions]


def fit(target, run, **settings) -> po.Fit:
    settings = {"steps": 10, "num_samples": 4, "learning_rate": 0.1, "output_dir": run} | settings
    return po.fit(target, settings.pop("objective", "rloo"), **settings)


class FailsAt:
    """`count_a` that raises, returns nonsense or is interrupted at its n-th call, until mended."""

    def __init__(self, call: int, failure) -> None:
        self.calls, self.call, self.failure, self.mended = 0, call, failure, False
        self.__name__ = "count_a"

    def __call__(self, completions, **kwargs):
        self.calls += 1
        if self.calls == self.call and not self.mended:
            if isinstance(self.failure, BaseException):
                raise self.failure
            return [self.failure] * len(completions)
        return count_a(completions)

    def mend(self) -> None:
        self.mended = True


@pytest.mark.moves_rng
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (RuntimeError("the judge is down"), EvidenceError),
        (float("nan"), EvidenceError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["raises", "NaN", "Ctrl-C"],
)
def test_a_run_that_stops_at_a_reward_leaves_its_last_good_state(table, tmp_path, failure, error):
    """The seventh step fails: six are kept, though checkpoints were due every fifth."""
    reward = FailsAt(7, failure)
    failing = po.Target(table, po.Reward(reward, beta=1.0), table.prompts, 3)
    with pytest.raises(error):
        fit(failing, tmp_path / "run", checkpoint_every=5)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == "step-00000006"

    reward.mend()
    fit(failing, tmp_path / "run", checkpoint_every=5, resume=True)
    fit(failing, tmp_path / "whole", checkpoint_every=5)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.moves_rng
def test_a_run_interrupted_within_an_update_does_not_keep_half_of_it(
    table_target, tmp_path, monkeypatch
):
    step = torch.optim.AdamW.step
    calls = []

    def interrupted(self, *args, **kwargs):
        step(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(table_target, tmp_path / "run", checkpoint_every=3)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == "step-00000003"
    monkeypatch.undo()
    fit(table_target, tmp_path / "run", checkpoint_every=3, resume=True)
    fit(table_target, tmp_path / "whole", checkpoint_every=3)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.fixture
def half_way(table_target, tmp_path, monkeypatch) -> Path:
    """The directory of a run that stopped after six of its ten steps."""
    run = tmp_path / "run"

    def stop(record):
        if record["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(table_target, run, checkpoint_every=2, on_step=stop)
    return run


class TestResuming:
    pytestmark = pytest.mark.moves_rng

    def resume(self, target, run, **settings):
        return fit(target, run, checkpoint_every=2, resume=True, **settings)

    def assert_whole(self, target, run, tmp_path):
        fit(target, tmp_path / "whole", checkpoint_every=2)
        assert_same_run(run, tmp_path / "whole")

    def test_goes_on_where_it_stopped(self, table_target, half_way, tmp_path):
        seen = []
        fitted = self.resume(table_target, half_way, on_step=lambda r: seen.append(r["step"]))
        assert seen == [6, 7, 8, 9]
        assert [line["step"] for line in fitted.history] == list(range(10))
        self.assert_whole(table_target, half_way, tmp_path)

    def test_ignores_a_checkpoint_that_was_being_written(self, table_target, half_way, tmp_path):
        incoming = half_way / "checkpoints" / ".incoming-00000008"
        incoming.mkdir()
        (incoming / "policy.safetensors").write_bytes(b"half of it")
        self.resume(table_target, half_way)
        self.assert_whole(table_target, half_way, tmp_path)

    @pytest.mark.parametrize("cut", [0, 1, 30])
    def test_drops_a_metrics_line_that_was_cut_short(self, table_target, half_way, tmp_path, cut):
        with (half_way / "metrics.jsonl").open("a") as file:
            file.write('{"step": 6, "loss": 0.12345678901234'[:cut])
        self.resume(table_target, half_way)
        self.assert_whole(table_target, half_way, tmp_path)

    def test_makes_lost_metrics_lines_again(self, table_target, half_way, tmp_path):
        """Lines beyond the checkpoint belong to steps that are made again."""
        shutil.rmtree(half_way / "checkpoints" / "step-00000006")
        self.resume(table_target, half_way)
        self.assert_whole(table_target, half_way, tmp_path)

    def test_starts_over_without_a_checkpoint(self, table_target, half_way, tmp_path):
        shutil.rmtree(half_way / "checkpoints")
        self.resume(table_target, half_way)
        self.assert_whole(table_target, half_way, tmp_path)

    def test_of_a_finished_run_changes_nothing(self, table_target, half_way, tmp_path):
        self.resume(table_target, half_way)
        self.resume(table_target, half_way)
        self.assert_whole(table_target, half_way, tmp_path)

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"learning_rate": 0.2}, "learning_rate = 0.1, and this run has 0.2"),
            ({"seed": 1}, "seed = 0, and this run has 1"),
            ({"steps": 20}, "steps = 10, and this run has 20"),
            ({"objective": "rl"}, "objective = 'rloo', and this run has 'rl'"),
        ],
    )
    def test_with_other_settings_is_refused(self, table_target, half_way, settings, named):
        with pytest.raises(CheckpointError, match=named):
            self.resume(table_target, half_way, **settings)

    def test_is_asked_for_and_not_assumed(self, table_target, half_way):
        with pytest.raises(CheckpointError, match="already holds a run"):
            fit(table_target, half_way)

    def test_of_another_model_is_refused(self, half_way, gpt2):
        other = po.Target(gpt2, po.Reward(count_a, beta=1.0), ["a"], 3)
        with pytest.raises(CheckpointError, match="another target: prior, prompts"):
            self.resume(other, half_way)

    @pytest.mark.parametrize(
        "file",
        [
            *("policy.safetensors", "optimizer.pt", "random.pt", "state.json"),
            *("others.pt", "history.json", "checksums.json"),
        ],
    )
    @pytest.mark.parametrize("damage", ["cut short", "missing", "one bit"])
    def test_from_a_damaged_checkpoint_goes_on_from_the_one_before(
        self, table_target, half_way, tmp_path, file, damage, capsys
    ):
        path = latest_checkpoint(half_way / "checkpoints") / file
        content = bytearray(path.read_bytes())
        content[-3] ^= 0x40
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2] if damage == "cut short" else content)
        resumed = self.resume(table_target, half_way)
        assert [finding.name for finding in resumed.findings] == ["damaged_checkpoint"]
        assert "'step-00000006' is damaged" in capsys.readouterr().err
        assert (half_way / "checkpoints" / ".damaged-step-00000006").is_dir()
        self.assert_whole(table_target, half_way, tmp_path)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("step-00000008", "'checksums.json' is missing"),
            ("step-99999999", "it holds 6 steps of a run of 10"),
            ("step-00000009", "it is a file"),
        ],
    )
    def test_from_what_is_no_checkpoint_of_this_run(
        self, table_target, half_way, tmp_path, name, said, capsys
    ):
        odd = half_way / "checkpoints" / name
        if name == "step-00000008":
            odd.mkdir()
        elif name == "step-99999999":
            shutil.copytree(latest_checkpoint(half_way / "checkpoints"), odd)
        else:
            odd.write_text("")
        self.resume(table_target, half_way)
        assert said in capsys.readouterr().err
        self.assert_whole(table_target, half_way, tmp_path)

    def test_does_not_take_another_runs_checkpoint(self, table_target, half_way, tmp_path, capsys):
        """Whole, of the same model and name, and of other settings."""
        fit(table_target, tmp_path / "other", checkpoint_every=2, seed=5)
        theirs = tmp_path / "other" / "checkpoints" / "step-00000008"
        shutil.copytree(theirs, half_way / "checkpoints" / "step-00000008")
        self.resume(table_target, half_way)
        assert "another run wrote it" in capsys.readouterr().err
        self.assert_whole(table_target, half_way, tmp_path)

    def test_removes_what_a_dead_process_was_writing(self, table_target, half_way):
        for step in (1, 3):
            (half_way / "checkpoints" / f".incoming-0000000{step}").mkdir()
        self.resume(table_target, half_way)
        assert not list(half_way.rglob(".incoming-*"))

    @pytest.mark.parametrize(
        "damage",
        [b"", b'{"loss": 1}\n', b"[1]\n", b"\xff\xfe\n", b'{"step": 0, "lo\n{}\n', b"\0" * 200],
        ids=["empty", "no step", "list", "not UTF-8", "torn in the middle", "NUL"],
    )
    def test_puts_lines_back_that_a_power_cut_has_damaged(
        self, table_target, half_way, tmp_path, damage
    ):
        (half_way / "metrics.jsonl").write_bytes(damage)
        self.resume(table_target, half_way)
        self.assert_whole(table_target, half_way, tmp_path)

    def test_with_a_damaged_config(self, table_target, half_way):
        for content in (b"{", b"[]", b"\xff"):
            (half_way / "config.json").write_bytes(content)
            with pytest.raises(CheckpointError, match="nothing says what this run is"):
                self.resume(table_target, half_way)

    def test_without_a_config_is_refused_and_so_is_a_fresh_run(self, table_target, half_way):
        (half_way / "config.json").unlink()
        for resume in (True, False):
            with pytest.raises(
                CheckpointError, match="holds 'checkpoints' of a run, and no config"
            ):
                fit(table_target, half_way, checkpoint_every=2, resume=resume)


def test_old_checkpoints_go_and_as_many_as_asked_for_stay(table_target, tmp_path):
    fit(table_target, tmp_path / "run", checkpoint_every=2, keep_checkpoints=3)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-00000006", "step-00000008", "step-00000010"]


def test_a_run_directory_that_cannot_be_written(table_target, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError):
        fit(table_target, tmp_path / "file" / "run")


def test_a_full_disk_leaves_the_checkpoint_before(table_target, tmp_path, monkeypatch):
    """The third one's optimiser cannot be written: the second is there and whole."""
    save, calls = torch.save, []

    def full(state, path):
        calls.append(path)
        if len(calls) >= 7:
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        fit(table_target, tmp_path / "run", checkpoint_every=2)
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == "step-00000004"


def test_nothing_is_written_without_an_output_dir(table_target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(table_target, None)
    assert os.listdir(tmp_path) == []


def test_the_loop_saves_in_its_order(table_target, tmp_path):
    """Trainer and `fit` agree on where a run's policy lies and that it is the last one."""
    fitted = fit(table_target, tmp_path / "run")
    again = po.TabularLM.from_pretrained(tmp_path / "run" / "policy")
    assert torch.equal(again.logits, fitted.policy.logits)
    assert isinstance(fitted, fit_module.Fit)

"""Trackers through accelerate: TensorBoard writes, and one that is missing is told at once."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec

import pytest

import posteriori as po
from posteriori.errors import ConfigError
from posteriori.train.monitor import trackers


@pytest.fixture
def target(table) -> po.Target:
    def lengths(completions, **kwargs):
        return [float(len(text)) for text in completions]

    return po.Target(table, po.Reward(lengths, beta=1.0), table.prompts, 3)


def fit(target, **settings):
    settings = {"steps": 4, "num_samples": 8, "learning_rate": 0.1} | settings
    return po.fit(target, "rloo", **settings)


def test_tensorboard_gets_every_step_and_every_evaluation(target, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fitted = fit(target, output_dir=tmp_path, tracker="tensorboard", evaluate_every=2)
    files = list((tmp_path / "trackers").rglob("events.out.tfevents*"))
    found: dict[str, list[tuple[int, float]]] = {}
    for file in files:
        read = EventAccumulator(str(file))
        read.Reload()
        for tag in read.Tags()["scalars"]:
            found.setdefault(tag, []).extend((e.step, e.value) for e in read.Scalars(tag))
    for name in ("elbo", "kl_to_prior", "entropy", "grad_norm", "effective_draws", "loss"):
        told = [(record["step"], pytest.approx(record[name])) for record in fitted.history]
        assert sorted(found[name]) == told
    told = [
        (line["step"], pytest.approx(line["kl_to_target"]["value"])) for line in fitted.evaluations
    ]
    assert sorted(found["evaluation/kl_to_target"]) == told
    assert [step for step, _ in told] == [0, 2, 4]


class Recorder:
    """Stands in for an Accelerator: what a tracker is told."""

    def __init__(self, **settings) -> None:
        self.settings, self.lines, self.ended = settings, [], 0
        RECORDERS.append(self)

    def init_trackers(self, project, config):
        self.project, self.config = project, config

    def log(self, values, step):
        self.lines.append((step, values))

    def end_training(self):
        self.ended += 1


RECORDERS: list[Recorder] = []


@pytest.fixture
def recorder(monkeypatch):
    RECORDERS.clear()
    monkeypatch.setattr(trackers, "Accelerator", Recorder)
    there = ModuleSpec("there", None, origin="somewhere")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there)
    return RECORDERS


def test_several_at_once_get_numbers_and_plain_settings(target, recorder):
    fitted = fit(target, tracker=["wandb", "mlflow"], config={"note": "x"})
    (told,) = recorder
    assert told.settings["log_with"] == ["wandb", "mlflow"]
    assert told.config["objective"] == "rloo"
    assert told.config["note"] == "x"
    assert all(isinstance(value, str | int | float) for value in told.config.values())
    assert [step for step, _ in told.lines] == [0, 1, 2, 3]
    assert told.lines[0][1]["elbo"] == fitted.history[0]["elbo"]
    assert told.ended == 1


def test_they_end_with_a_run_that_fails(target, recorder):
    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(target, tracker="wandb", on_step=stop)
    assert recorder[0].ended == 1


def test_one_that_does_not_start_is_a_typed_error(target, recorder, monkeypatch):
    def fail(self, project, config):
        raise RuntimeError("no API key")

    monkeypatch.setattr(Recorder, "init_trackers", fail)
    with pytest.raises(ConfigError, match="wandb cannot be started: no API key"):
        fit(target, tracker="wandb")


def test_a_missing_one_is_told_before_anything_is_done(target, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'posteriori\[trackio\]'"):
        fit(target, tracker="trackio", output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_its_name_is_no_tracker(target, tmp_path, monkeypatch):
    (tmp_path / "trackio").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    assert importlib.util.find_spec("trackio") is not None
    with pytest.raises(ConfigError, match="the tracker 'trackio' is not installed"):
        fit(target, tracker="trackio")


def test_one_that_refuses_a_step_ends_the_run_with_a_checkpoint(target, recorder, tmp_path):
    """The run goes on from there once it is mended."""
    plain = Recorder.log

    def log(self, values, step):
        if step == 2:
            raise RuntimeError("disk full")
        plain(self, values, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "log", log)
        with pytest.raises(ConfigError, match="wandb cannot log step 2: disk full"):
            fit(target, tracker="wandb", output_dir=tmp_path)
    assert recorder[0].ended == 1
    assert len(fit(target, tracker="wandb", output_dir=tmp_path, resume=True).history) == 4
    assert [step for step, _ in recorder[1].lines] == [3]


def test_what_they_print_is_no_result(target, recorder, monkeypatch, capsys):
    def greet(self, *args, **kwargs):
        print("* View the dashboard")

    for name in ("init_trackers", "log", "end_training"):
        monkeypatch.setattr(Recorder, name, greet)
    fit(target, tracker="wandb")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("* View the dashboard\n") == 1 + 4 + 1


def test_what_is_wrong_with_the_setting_is_told(target):
    with pytest.raises(ConfigError, match=r"'tracker\.0' = 'tensorbord' is not valid"):
        fit(target, tracker="tensorbord")
    with pytest.raises(ConfigError, match="tensorboard writes into the run's folder"):
        fit(target, tracker="tensorboard")

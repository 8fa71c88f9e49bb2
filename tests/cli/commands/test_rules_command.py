"""`posteriori rules`: a rule model per rule, by options and by a table, kept and resumed."""

from __future__ import annotations

import json

import pytest

import posteriori as po
from posteriori.reward_models.writer import Writer

TABLE = """
[rules]
labels = "labels.jsonl"
model = "model"
output = "runs/rules"
epochs = 2
"""
LABELS = [
    {"prompt": prompt, "completion": f" {word} {word}", "rule": rule, "violated": word == broken}
    for prompt in ("a", "b", "c", "d")
    for word in ("b", "c", "d")
    for rule, broken in (("no b", "b"), ("no c", "c"))
]


@pytest.fixture
def labels(job):
    job.write("rules.toml", TABLE)
    return job.write("labels.jsonl", "".join(json.dumps(row) + "\n" for row in LABELS))


def test_a_table_trains_rules_that_a_run_file_takes(job, labels, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = job.run("rules", str(job.folder / "rules.toml"), "--json", "--quiet")
    assert result.code == 0
    assert set(result.json["rules"]) == {"no b", "no c"}
    by_hand = po.fit_rules(job.folder / "model", labels, epochs=2)
    for rule, figures in result.json["rules"].items():
        kept = figures["held_out"]["log_loss"]["value"]
        assert kept == by_hand.fits[rule].held_out.log_loss.value
    job.change(
        'kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5',
        'kind = "rules"\nmodel = "runs/rules"',
    )
    assert job.fit("--dry-run").code == 0
    draws = ("-o", str(job.folder / "d.jsonl"), "--num-samples", "4", "-q", "--json")
    assert job.sample(*draws).code == 0


def test_options_alone_and_words(job, labels):
    given = ("--labels", str(labels), "--model", str(job.folder / "model"), "-o", str(job.output))
    result = job.run("rules", *given, "--quiet", "--set", "rules.epochs=1")
    assert result.code == 0
    for told in ("no b", "no c", "accuracy", "temperature", f"rules: {job.output}"):
        assert told in result.out
    assert "is not empty" in job.run("rules", *given).error
    assert job.run("rules", *given[:-1], str(job.folder / "other")).err == "rules\n"


def test_a_dry_run_trains_and_writes_nothing(job, labels):
    result = job.run("rules", str(job.folder / "rules.toml"), "--dry-run")
    assert result.code == 0
    assert "rules.epochs = 2" in result.out
    assert "'no b' from 12 labels, 'no c' from 12 labels" in result.out
    assert not (job.folder / "runs").exists()


@pytest.mark.parametrize("at", ["in the first rule", "in the second rule"])
def test_a_stopped_run_is_resumed_and_keeps_what_is_trained(job, labels, at, monkeypatch):
    """The figures of a run that was never stopped; other labels or settings are refused."""
    config = str(job.folder / "rules.toml")
    whole = job.run("rules", config, "-q", "--json", "--set", 'rules.output="runs/whole"').json
    step, seen = Writer.step, []

    def stop(self, record):
        step(self, record)
        seen.append(record)
        if len(seen) == (1 if at == "in the first rule" else 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "step", stop)
        stopped = job.run("rules", config, "-q")
    assert stopped.code == 130
    assert "holds an unfinished run" in job.run("rules", config, "-q").error
    other = job.run("rules", config, "-q", "--resume", "--set", "rules.epochs=1").error
    assert "was begun with another model, other labels or other settings" in other
    resumed = job.run("rules", config, "-q", "--json", "--resume").json
    for rule, figures in whole["rules"].items():
        assert resumed["rules"][rule]["held_out"] == figures["held_out"]
        assert resumed["rules"][rule]["steps"] == figures["steps"] == 2
    assert "is not empty" in job.run("rules", config, "-q", "--resume").error


REFUSED = {
    "an unknown key": ("rules.epoch=2", "unknown key 'epoch'; did you mean 'epochs'?"),
    "a setting without effect": ("rules.members=3", "'members' has no effect"),
    "labels that are not there": ('rules.labels="none.jsonl"', "none.jsonl"),
    "a model that is not there": ('rules.model="./none"', "there is no model at"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(job, labels, name):
    override, message = REFUSED[name]
    result = job.run("rules", str(job.folder / "rules.toml"), "-q", "--set", override)
    assert result.code == 2
    assert message in result.error
    assert not (job.folder / "runs").exists()


def test_a_wrong_line_a_missing_option_and_a_missing_table_are_named(job, labels):
    job.write("labels.jsonl", labels.read_text() + '{"prompt": "a", "rule": "no b"}\n')
    error = job.run("rules", str(job.folder / "rules.toml")).error
    assert error.startswith(f"{labels}:25: the row has no 'completion'")
    assert "--labels is missing" in job.run("rules").error
    error = job.run("rules", str(job.config)).error
    assert error.startswith(f"{job.config}: 'rules' is missing; write a table [rules] with labels")

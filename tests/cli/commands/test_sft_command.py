"""`posteriori sft`: demonstrations, by options and by a table, kept, resumed and judged."""

from __future__ import annotations

import json

import pytest

import posteriori as po

TABLE = """
[sft]
data = "rows.jsonl"
model = "model"
output = "runs/sft"
epochs = 2
learning_rate = 1e-2
rows_per_step = 8
"""
ROWS = [
    {"prompt": prompt, "completion": " b b"}
    for prompt in (f"{one} {two}" for one in "abcde" for two in "abcde")
]


@pytest.fixture
def rows(job):
    return job.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))


def test_a_table_trains_a_policy_that_another_run_starts_from(job, rows, tmp_path, monkeypatch):
    """Paths are relative to the config; the nats that are printed are those of `po.sft`."""
    job.write("sft.toml", TABLE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = job.run("sft", str(job.folder / "sft.toml"), "--json", "--quiet")
    assert result.code == 0
    settings = {"epochs": 2, "learning_rate": 1e-2, "rows_per_step": 8}
    model = po.load(job.folder / "model")
    by_hand = po.sft(model, rows, on_note=lambda text: None, **settings).likelihood
    assert result.json["after"]["value"] == pytest.approx(by_hand.after.value, abs=1e-5)
    assert result.json["before"]["value"] > result.json["after"]["value"]
    assert (result.json["num_rows"], result.json["held_out"]) == (2, True)
    kept = json.loads((job.folder / "runs" / "sft" / "likelihood.json").read_text())
    assert kept["gain"]["value"] == result.json["gain"]["value"]
    job.write("run.toml", job.config.read_text().replace("[fit]", '[fit]\nstart = "runs/sft"'))
    assert job.fit("--dry-run").code == 0


def test_options_alone_and_words(job, rows):
    given = ("--data", str(rows), "--model", str(job.folder / "model"), "-o", str(job.output))
    result = job.run("sft", *given, "--quiet", "--set", "sft.epochs=1")
    assert result.code == 0
    for told in (
        "2 steps, judged by 2 held-out rows",
        "per completion",
        "has fallen by",
        "policy:",
    ):
        assert told in result.out
    assert "already holds a run" in job.run("sft", *given).error
    again = job.run("sft", *given, "--overwrite", "--quiet", "--set", "sft.epochs=1")
    assert again.out == result.out


def test_a_dry_run_loads_and_writes_nothing(job, rows, monkeypatch):
    job.write("sft.toml", TABLE)
    monkeypatch.setattr("posteriori.models.load.load", lambda *_, **__: pytest.fail("loaded"))
    result = job.run("sft", str(job.folder / "sft.toml"), "--dry-run")
    assert result.code == 0
    assert "sft.rows_per_step = 8" in result.out
    assert "sft, 6 steps of 8 of 23 rows" in result.out
    assert "judged by 2 held-out rows" in result.out
    assert not (job.folder / "runs").exists()
    told = job.run("sft", str(job.folder / "sft.toml"), "--dry-run", "--json").json
    assert told["sft"]["epochs"] == 2
    assert told["would_run"].startswith("sft, 6 steps")


def test_a_stopped_run_is_resumed_to_the_same_bits(job, rows, monkeypatch):
    job.write("sft.toml", TABLE + "checkpoint_every = 2\n")
    config = str(job.folder / "sft.toml")
    whole = job.run("sft", config, "-q", "--json", "--set", 'sft.output="runs/whole"').json
    from posteriori.cli.console.progress_bar import FitShown

    def stop(self, record):
        if record["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FitShown, "__call__", stop)
        stopped = job.run("sft", config, "-q")
    assert stopped.code == 130
    assert "--resume" in stopped.err
    resumed = job.run("sft", config, "-q", "--json", "--resume").json
    assert resumed["after"] == whole["after"]


REFUSED = {
    "a setting of draws": ("sft.num_samples=4", "num_samples is for draws"),
    "both lengths": ("sft.steps=4", "both epochs and steps are given"),
    "an unknown key": ("sft.epoch=2", "unknown key 'epoch'; did you mean 'epochs'?"),
    "no share": ("sft.held_out=1.0", "'held_out' = 1.0"),
    "rows that are not there": ('sft.data="none.jsonl"', "none.jsonl"),
    "a model that is not there": ('sft.model="./none"', "there is no model at"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_loaded(job, rows, name, monkeypatch):
    job.write("sft.toml", TABLE)
    monkeypatch.setattr("posteriori.models.load.load", lambda *_, **__: pytest.fail("loaded"))
    override, message = REFUSED[name]
    for dry in ((), ("--dry-run",)):
        result = job.run("sft", str(job.folder / "sft.toml"), *dry, "--set", override)
        assert result.code == 2
        assert message in result.error


def test_a_missing_option_or_table_is_named(job):
    assert "--data is missing" in job.run("sft").error
    error = job.run("sft", str(job.config)).error
    assert error.startswith(f"{job.config}: 'sft' is missing; write a table [sft] with data = ")


def test_a_run_file_may_hold_the_table(job, rows):
    job.write("run.toml", job.config.read_text() + TABLE)
    assert job.fit("--dry-run").code == 0
    assert job.run("sft", str(job.config), "--dry-run").code == 0

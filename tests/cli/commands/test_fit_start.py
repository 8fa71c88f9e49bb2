"""`start` in a config: a run whose policy begins as another run's."""

from __future__ import annotations

import json

import pytest


def test_a_run_goes_on_from_another_ones_policy(job):
    assert job.fit("--quiet").code == 0
    first = job.output
    job.change("[fit]", f'[fit]\nstart = "{first}"')
    job.change('output_dir = "runs/one"', 'output_dir = "runs/second"')
    told = job.fit("--quiet", "--json")
    assert told.code == 0, told.error
    run = first.parent / "second"
    assert json.loads((run / "config.json").read_text())["start"] == str(first)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert list(evaluation["policies"])[:2] == ["prior", "start"]
    before, after = (
        json.loads((first / "evaluation.json").read_text())["policies"]["rloo"],
        evaluation["policies"]["start"],
    )
    assert after["figures"]["kl_to_prior"] == before["figures"]["kl_to_prior"], (
        "the same policy, by the same draws"
    )


@pytest.mark.usefixtures("nothing_loads")
def test_a_start_that_is_not_there_is_said_before_anything_is_loaded(job):
    job.change("[fit]", '[fit]\nstart = "./nowhere"')
    assert "fit.start: there is no model at" in job.fit("--dry-run").error


def test_a_config_names_a_pretraining_mix_relative_to_its_folder(job, tmp_path, monkeypatch):
    job.write("mix.jsonl", '{"prompt": "a b", "completion": " c"}\n')
    job.change("\n[evaluate]", '\n[fit.ptx]\ndata = "mix.jsonl"\nweight = 0.5\n\n[evaluate]')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert job.fit("--quiet").code == 0
    lines = (job.output / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["ptx_loss"] > 0 for line in lines)
    assert json.loads((job.output / "config.json").read_text())["ptx"]["data"] == "mix.jsonl"


@pytest.mark.usefixtures("nothing_loads")
def test_a_mix_that_cannot_be_read_is_said_before_anything_is_loaded(job):
    job.write("mix.jsonl", '{"prompt": "a b"}\n')
    job.change("\n[evaluate]", '\n[fit.ptx]\ndata = "mix.jsonl"\n\n[evaluate]')
    assert "mix.jsonl:1: the row has no completion" in job.fit("--dry-run").error

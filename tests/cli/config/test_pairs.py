"""Preference data from the command line."""

from __future__ import annotations

import json

import pytest

PAIRS = [
    {"prompt": "a b", "chosen": " b", "rejected": " d"},
    {"prompt": "c", "chosen": " b b", "rejected": " d"},
]


@pytest.fixture
def paired(job):
    job.change('objective = "rloo"', 'objective = "dpo"')
    job.change("\n[evaluate]", '\n[fit.objective_settings]\npairs = "pairs.jsonl"\n\n[evaluate]')
    job.write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in PAIRS))
    return job


def test_a_config_names_pairs_relative_to_its_own_folder(paired, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert paired.fit("--quiet").code == 0
    lines = (paired.output / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all("accuracy" in record and "elbo" not in record for record in records)


@pytest.mark.usefixtures("nothing_loads")
def test_wrong_pairs_are_told_before_anything_is_loaded(paired):
    paired.write("pairs.jsonl", '{"prompt": "a b", "chosen": " b"}\n')
    error = paired.fit("--dry-run").error
    assert error.startswith(f"{paired.folder / 'pairs.jsonl'}:1: the row has no 'rejected'")
    (paired.folder / "pairs.jsonl").unlink()
    assert "there is no such file of pairs" in paired.fit().error

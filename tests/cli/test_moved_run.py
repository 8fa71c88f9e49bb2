"""A run and its config in another place: nothing that was recorded ties them to the first one."""

from __future__ import annotations

import json
from dataclasses import replace

from posteriori.cli.files.run_report import OWN, write_page


def moved(job, tmp_path):
    """The whole folder, in another place."""
    return replace(job, folder=job.folder.rename(tmp_path.parent / f"{tmp_path.name} elsewhere"))


def figures(evaluation) -> dict:
    policies = evaluation.json["policies"]
    return {name: each["figures"] for name, each in policies.items()}


def recorded(job) -> str:
    kept = ("config.json", "evaluation.json", "versions.json", "metrics.jsonl", "samples.jsonl")
    return "".join((job.output / name).read_text() for name in kept)


def test_a_lora_run_is_evaluated_and_resumed_elsewhere(job, tmp_path):
    job.change("steps = 4", 'steps = 4\npolicy = "lora"')
    assert job.fit("--quiet").code == 0
    assert str(tmp_path) not in recorded(job)
    before = job.evaluate("--quiet", "--json")
    assert before.err == ""
    there = moved(job, tmp_path)
    assert not job.folder.exists()
    after = there.evaluate("--quiet", "--json")
    assert figures(after) == figures(before)
    assert f"stands on '{job.folder / 'model'}', which is gone" in after.err
    weights = (there.output / "policy" / "adapter_model.safetensors").read_bytes()
    assert there.fit("--resume", "--quiet").code == 0
    assert (there.output / "policy" / "adapter_model.safetensors").read_bytes() == weights


def test_an_adapter_of_another_base_that_is_gone_is_refused(job, tmp_path):
    job.change("steps = 4", 'steps = 4\npolicy = "lora"')
    assert job.fit("--quiet").code == 0
    there = moved(job, tmp_path)
    (there.folder / "model").rename(there.folder / "another")
    there.change('path = "model"', 'path = "another"')
    assert "model' any more; say where it is now" in there.evaluate("--quiet").error


def test_a_run_on_pairs_is_resumed_elsewhere(job, tmp_path):
    job.change('objective = "rloo"', 'objective = "dpo"')
    job.change("\n[evaluate]", '\n[fit.objective_settings]\npairs = "pairs.jsonl"\n\n[evaluate]')
    job.write("pairs.jsonl", json.dumps({"prompt": "c", "chosen": " b b", "rejected": " d"}) + "\n")
    assert job.fit("--quiet").code == 0
    config = json.loads((job.output / "config.json").read_text())
    assert config["objective_settings"]["pairs"] == "pairs.jsonl"
    there = moved(job, tmp_path)
    assert there.fit("--resume", "--quiet").code == 0


def test_a_readme_that_somebody_wrote_stays(job):
    assert job.fit("--quiet").code == 0
    readme = job.output / "policy" / "README.md"
    card = readme.read_text()
    assert OWN in card
    readme.write_text(f"An old card, by {OWN}.")
    write_page(job.output, card=True)
    assert readme.read_text() == card
    readme.write_text("My own words.")
    assert job.fit("--resume", "--quiet").code == 0
    assert readme.read_text() == "My own words."

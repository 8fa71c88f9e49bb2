"""`posteriori sample`: draws into a file, and what they are worth."""

from __future__ import annotations

import json
import math

import pytest
from helpers import tiny_lm

import posteriori as po
from posteriori.samplers.independent import importance
from posteriori.samplers.independent.importance import Importance


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_record_a_draw_with_its_weight(job, tmp_path):
    out = tmp_path / "draws.jsonl"
    result = job.sample("-o", str(out), "--num-samples", "30", "--seed", "3", "--quiet")
    assert result.code == 0, result.err
    rows = records(out)
    assert [row["prompt"] for row in rows] == ["a b"] * 30 + ["c"] * 30
    for row in rows:
        expected = row["log_prior"] + row["log_evidence"] - row["log_proposal"]
        assert row["log_weight"] == pytest.approx(expected)
        assert row["completion"] == " ".join(
            ("<eos>", "a", "b", "c", "d", "e")[i] for i in row["completion_ids"] if i
        )
    for prompt in ("a b", "c"):
        assert sum(r["weight"] for r in rows if r["prompt"] == prompt) == pytest.approx(1.0)
    first, second = result.out.splitlines()[2:4]
    assert first.split()[:3] == ["a", "b", "30"]
    assert second.split()[:2] == ["c", "30"]
    assert "LM tokens" in result.out


def test_json_says_what_the_draws_are_worth(job, tmp_path):
    out = tmp_path / "draws.jsonl"
    result = job.sample("-o", str(out), "--num-samples", "50", "--json", "--quiet")
    found = result.json
    assert found["guarantee"] == "properly_weighted"
    assert found["output"] == str(out)
    assert [row["draws"] for row in found["prompts"]] == [50, 50]
    assert all(row["log_z_kind"] == "lower_bound" for row in found["prompts"])
    assert found["cost"]["evidence_calls"] == 100


def test_what_drew_them_stands_beside_the_draws(job, tmp_path):
    out = tmp_path / "draws.jsonl"
    settings = "{ n = 4 }"
    given = ("--sampler", "best_of_n", "--num-samples", "30", "--seed", "5", "--json", "--quiet")
    job.change(
        "[evaluate]", f'[sample]\nsampler = "best_of_n"\nsettings = {settings}\n\n[evaluate]'
    )
    found = job.sample("-o", str(out), *given)
    assert found.code == 0, found.err
    told = json.loads((tmp_path / "draws.jsonl.json").read_text())
    assert (told["sampler"], told["settings"], told["seed"]) == ("best_of_n", {"n": 4}, 5)
    assert (told["guarantee"], told["of_target"]) == ("heuristic", False)
    assert told["config"]["evidence"][0]["beta"] == 0.5
    assert len(told["config"]["prompts_sha256"]) == 64
    assert (told["num_prompts"], told["num_draws"]) == (2, 60)
    assert told["cost"] == found.json["cost"]
    assert told["findings"] == found.json["findings"]
    rewards = [row["reward"] for row in records(out)]
    assert told["figures"]["mean_reward"]["value"] == pytest.approx(sum(rewards) / 60)
    assert [row["prompt_index"] for row in records(out)] == [0] * 30 + [1] * 30


def test_parquet_holds_the_same(job, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    command = ["--num-samples", "10", "--quiet", "-o"]
    assert job.sample(*command, str(tmp_path / "draws.parquet")).code == 0
    assert job.sample(*command, str(tmp_path / "draws.jsonl")).code == 0
    assert parquet.read_table(tmp_path / "draws.parquet").to_pylist() == records(
        tmp_path / "draws.jsonl"
    )


def test_settings_come_from_the_config_and_the_command_line(job, tmp_path):
    job.change("[evaluate]", '[sample]\nsampler = "importance"\nnum_samples = 7\n\n[evaluate]')
    out = tmp_path / "draws.jsonl"
    assert job.sample("-o", str(out), "--quiet").code == 0
    assert len(records(out)) == 14
    tiny_lm("gpt2", seed=1).save_pretrained(job.folder / "other")
    proposal = str(job.folder / "other")
    assert job.sample("-o", str(out), "--proposal", proposal, "--quiet").code == 0
    assert any(row["log_proposal"] != row["log_prior"] for row in records(out))


def test_evidence_that_is_never_satisfied_is_a_finding_and_an_exit_code(job, tmp_path):
    job.change(
        'kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5',
        'kind = "constraint"\nfunction = "my_reward.py:never"',
    )
    out = tmp_path / "draws.jsonl"
    result = job.sample("-o", str(out), "--num-samples", "5", "--quiet")
    assert result.code == 1
    assert "[stop] No draw has any weight for 2 of 2 prompts" in result.out
    assert [row["log_weight"] for row in records(out)] == [None] * 10
    assert [row["weight"] for row in records(out)] == [0.0] * 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "draws.csv"], "--output: the draws cannot go to 'draws.csv'; name a .jsonl"),
        (["-o", "nowhere/draws.jsonl"], "--output: there is no directory 'nowhere'; make it first"),
        (["-o", "d.jsonl", "--sampler", "importanc"], "unknown sampler 'importanc'; did you mean"),
        (["-o", "d.jsonl", "--set", "sample.settings={rounds = 3}"], "unknown key 'rounds'"),
        (["-o", "d.jsonl", "--set", 'sample.sampler="impotance"'], "did you mean 'importance'?"),
    ],
)
def test_wrong_use_is_told_before_anything_loads(
    job, nothing_loads, monkeypatch, arguments, message
):
    monkeypatch.chdir(job.folder)
    result = job.sample(*arguments)
    assert result.code == 2
    assert message in result.error


def test_finished_draws_survive_a_failure(job, tmp_path, monkeypatch):
    draw, calls = importance.draw, []

    def failing(*args, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise po.PosterioriError("the reward's server is gone")
        return draw(*args, **settings)

    monkeypatch.setattr(importance, "draw", failing)
    monkeypatch.setattr(importance, "_ROUND", 8)
    out = tmp_path / "draws.jsonl"
    result = job.sample("-o", str(out), "--num-samples", "20", "--quiet")
    assert result.code == 1
    assert "'importance' stopped after 16 draws: the reward's server is gone" in result.err
    assert len(records(out)) == 16
    told = json.loads((tmp_path / "draws.jsonl.json").read_text())
    assert [finding["name"] for finding in told["findings"]][-1] == "stopped"
    assert all(math.isfinite(row["log_weight"]) for row in records(out))


def test_the_file_is_what_the_library_draws(job, tmp_path):
    out = tmp_path / "draws.jsonl"
    assert job.sample("-o", str(out), "--num-samples", "6", "--quiet").code == 0
    target = po.Target(
        po.load(job.folder / "model"),
        po.Reward(lambda completion_ids, **kw: [0.0] * len(completion_ids), beta=1.0),
        ["a b", "c"],
        3,
    )
    drawn = po.sample(target, Importance(), 6)
    assert [row["completion_ids"] for row in records(out)] == drawn.completion_ids

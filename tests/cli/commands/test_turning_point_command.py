"""`posteriori turning-point`: what `po.turning_point` finds, for a run file."""

from __future__ import annotations

import json

import pytest

import posteriori as po

PAIRS = [
    {"prompt": prompt, "chosen": " b b", "rejected": rejected}
    for prompt in ("a", "b", "c", "d")
    for rejected in (" d", " e", " c d")
]


@pytest.fixture
def preferences(job):
    job.write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in PAIRS))
    given = ("--pairs", str(job.folder / "pairs.jsonl"), "--model", str(job.folder / "model"))
    uncertain = ("--set", "reward.uncertainty=laplace", "--set", "reward.tuning=head")
    assert job.run("reward", *given, "-o", str(job.folder / "rm"), "-q", *uncertain).code == 0
    job.change(
        'kind = "reward"\nfunction = "my_reward.py:score"', 'kind = "preferences"\nmodel = "rm"'
    )
    return str(job.config)


def test_it_is_that_of_the_library(job, preferences):
    given = ("--num-samples", "100", "--num-worlds", "50", "--quiet")
    result = job.run("turning-point", preferences, *given, "--json")
    assert result.code == 0
    by_hand = po.turning_point(po.load_target(job.config), 100, 0, num_worlds=50)
    assert result.json["kl"] == pytest.approx(by_hand.kl)
    assert result.json["kl_interval"] == pytest.approx(by_hand.kl_interval)
    assert len(result.json["curve"]) == len(by_hand.curve)
    words = job.run("turning-point", preferences, *given).out
    assert f"turns at KL {by_hand.kl:.3g} nats" in words
    assert "95% interval" in words


def test_a_dry_run_draws_nothing(job, preferences, monkeypatch):
    monkeypatch.setattr("posteriori.cli.build.build_target", lambda *_, **__: pytest.fail("loaded"))
    result = job.run("turning-point", preferences, "--num-samples", "100", "--dry-run")
    assert result.code == 0
    assert "would run: 1000 worlds; 200 completions, at most 600 tokens" in result.out
    told = job.run("turning-point", preferences, "--num-samples", "100", "--dry-run", "--json").json
    assert told["would_run"].startswith("1000 worlds; 200 completions")


def test_what_has_no_preferences_is_refused(job):
    error = job.run("turning-point", str(job.config), "--num-samples", "100", "-q").error
    assert "the target has 0 Preferences, and it has to be one" in error
    assert job.run("turning-point", str(job.config), "--confidence", "1.5", "-q").code == 2

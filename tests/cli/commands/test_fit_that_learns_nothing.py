"""`posteriori fit` with a reward that says nothing ends with exit code 1."""

from __future__ import annotations

import json


def test_a_constant_reward_is_told_and_is_a_failure(job):
    job.write(
        "my_reward.py", "def score(completions, **kwargs):\n    return [0.0] * len(completions)\n"
    )
    result = job.fit("--set", "fit.steps=10")
    assert result.code == 1
    assert "[warn] All 8 draws so far have the same evidence" in result.err
    assert "(a reward of 0)" in result.err
    assert "[stop] All 80 draws so far" in result.err
    evaluation = json.loads((job.output / "evaluation.json").read_text())
    (finding,) = evaluation["training_findings"]
    assert (finding["name"], finding["level"]) == ("nothing_to_learn", "stop")
    assert "columns" in finding["hint"]


def test_a_reward_that_says_something_is_none(job):
    result = job.fit()
    assert result.code == 0
    assert "so far have the same evidence" not in result.err

"""A first day at the command line: data as it is, cost said beforehand, mistakes in one line."""

from __future__ import annotations

import json

import pytest

MODEL = "tiny"
ROWS = [{"prompt": "You are", "answer": "kind"}, {"prompt": "You are", "answer": "good"}]

CONFIG = """
output_dir = "run"
prompts = {prompts}
max_new_tokens = 4
[prior]
path = "{prior}"
[[evidence]]
kind = "{kind}"
function = "judge.py:matches"
{beta}
[fit]
objective = "rloo"
steps = {steps}
num_samples = 8
"""

FUNCTION = "def matches(completions, answer, **kwargs):\n    return [0.0 for _ in completions]\n"


def plan(folder, cli, *arguments, **changes):
    (folder / "judge.py").write_text(FUNCTION)
    (folder / "p.csv").write_text("prompt,answer\nYou are,kind\nYou are,good\n")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    values = {"prompts": '"p.csv"', "prior": MODEL, "kind": "reward", "beta": "beta = 1.0"}
    values |= {"steps": 3, **changes}
    (folder / "c.toml").write_text(CONFIG.format(**values))
    return cli("fit", str(folder / "c.toml"), *arguments)


PLANS = {
    "a CSV file": {},
    "JSON lines": {"prompts": '"rows.jsonl"'},
    "a part of a file": {"prompts": '{ path = "p.csv", max_prompts = 1 }'},
    "rows": {"prompts": '[{ prompt = "You are", answer = "kind" }]'},
    "a verifier": {"kind": "verifier", "beta": ""},
}


@pytest.mark.parametrize("case", PLANS)
def test_a_dry_run_says_cost_and_time(tmp_path, cli, case):
    result = plan(tmp_path, cli, "--dry-run", **PLANS[case])
    assert result.code == 0
    assert "completions, at most" in result.out
    assert "besides loading and your own functions" in result.out


REFUSED = {
    "a missing model": ({"prior": "tniy"}, "tniy"),
    "a model of no hub": ({"prior": "no/such-model"}, "there is no model 'no/such-model'"),
    "a missing column": ({"prompts": '["You are"]'}, "needs an argument 'answer'"),
    "a missing file": ({"prompts": '"nowhere.parquet"'}, "no such file of prompts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_dry_run_refuses_what_cannot_be(tmp_path, cli, case):
    changes, message = REFUSED[case]
    result = plan(tmp_path, cli, "--dry-run", **changes)
    assert result.code == 2
    assert message in result.error


def test_what_takes_above_an_hour_is_asked_for(tmp_path, cli):
    result = plan(tmp_path, cli, steps=10_000_000)
    assert result.code == 2
    assert "or say --yes" in result.error
    assert not (tmp_path / "run").exists()

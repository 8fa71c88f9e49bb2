"""What was asked for is what is judged: preference pairs, and wanted means."""

from __future__ import annotations

import json

import pytest

PAIRS = [
    {"prompt": f"{'a ' * (1 + n % 5)}{'c ' * (n // 5)}".strip(), "chosen": " b", "rejected": " d"}
    for n in range(25)
]


@pytest.fixture
def paired(job):
    job.change('objective = "rloo"', 'objective = "dpo"')
    job.change("\n[evaluate]", '\n[fit.objective_settings]\npairs = "pairs.jsonl"\n\n[evaluate]')
    job.change('[[evidence]]\nkind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5\n', "")
    job.change("max_new_tokens = 3\n", "max_new_tokens = 3\nevidence = []\n")
    job.change("steps = 4", "steps = 30")
    job.write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in PAIRS))
    return job


def test_dpo_from_a_file_is_judged_by_held_out_pairs(paired):
    result = paired.fit()
    assert result.code == 0, result.err
    assert "KL to target" not in result.out, "the target is the prior: it would read as harm"
    assert "KL to prior" in result.out
    # Two of two: the rule of three leaves 3/2 over 1.96 to others.
    (line,) = [each for each in result.out.splitlines() if each.startswith("dpo: orders 100")]
    assert "±" in line
    assert "% of 2 held-out pairs" in line
    told = json.loads((paired.output / "evaluation.json").read_text())["pairs"]
    assert told["held_out"] is True
    assert told["num_prompts"] == 2
    assert told["policies"]["prior"]["accuracy"]["value"] == 0.5
    assert told["policies"]["dpo"]["accuracy"]["value"] == 1.0
    assert told["policies"]["dpo"]["loss"]["value"] < 0.69
    page = (paired.output / "report.html").read_text()
    assert "Held-out pairs ordered as labelled" in page
    assert "Loss of held-out pairs" in page
    again = paired.run("evaluate", str(paired.config), "--json")
    policies = again.json["pairs"]["policies"]
    (mine,) = [each for name, each in policies.items() if name != "prior"]
    assert mine == told["policies"]["dpo"], "the same pairs are held out"


MOMENTS = """kind = "moments"
[evidence.features."number of b"]
function = "my_reward.py:count"
mean = 0.15
"""

COUNT = """\
def count(completion_ids, **kwargs):
    return [float(y.count(2)) for y in completion_ids]
"""


@pytest.fixture
def wanted(job):
    job.change('kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5\n', MOMENTS)
    job.write("my_reward.py", COUNT)
    return job


def test_moments_are_shown_with_lambda_and_what_was_attained(wanted):
    result = wanted.fit()
    assert result.code == 0, result.err
    assert "mean of 'number of b': 0.15 wanted, lambda" in result.out
    assert "attained: prior" in result.out
    evaluation = json.loads((wanted.output / "evaluation.json").read_text())
    told = evaluation["moments"]["number of b"]
    assert told["wanted"] == 0.15
    page = (wanted.output / "report.html").read_text()
    assert "Mean of &#39;number of b&#39; (0.15 wanted, lambda" in page
    assert told["lambda"]["kind"] == "exact"
    assert set(told["attained"]) == {"prior", "rloo"}
    assert told["attained"]["prior"]["standard_error"] > 0
    printed = wanted.evaluate("--json").json
    assert printed["moments"]["number of b"]["lambda"]["value"] == told["lambda"]["value"]


def test_a_sample_says_what_its_draws_attain(wanted):
    arguments = ("--sampler", "importance", "--num-samples", "400")
    told = wanted.sample(*arguments, "--output", str(wanted.folder / "one.jsonl"), "--json").json
    attained = told["moments"]["number of b"]["attained"]["draws"]
    # A normal beyond 5.5 errors: once in 2.6e7.
    assert abs(attained["value"] - 0.15) < 5.5 * attained["standard_error"]
    out = wanted.sample(*arguments, "--output", str(wanted.folder / "two.jsonl")).out
    assert "mean of 'number of b': 0.15 wanted" in out

"""Rules and compositions from a config: made as by Python, refused in one line."""

from __future__ import annotations

import json
import re

import pytest

import posteriori as po
from posteriori.cli.build import build_target
from posteriori.config.check import make_plan
from posteriori.errors import ConfigError

PLAIN = """kind = "reward"
function = "my_reward.py:score"
beta = 0.5"""
RULES = 'kind = "rules"\nmodel = "rules"\nweights = { polite = 2.0 }'
COMPOSED = """kind = "composition"
pairs = "pairs.jsonl"
beta = 0.5
[evidence.features.has_b]
function = "my_features.py:has_b"
[evidence.features.polite]
model = "tiny"
question = "Is it polite?\""""
FEATURES = "def has_b(completions, **kwargs):\n    return ['b' in text for text in completions]\n"


@pytest.fixture
def job(job):
    job.write("my_features.py", FEATURES)
    rows = [{"prompt": f"q{n}", "chosen": f"a b {n}", "rejected": f"c d e {n}"} for n in range(20)]
    job.write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return job


def plan(job, text: str):
    job.change(PLAIN, text)
    return make_plan(job.config, [])


def test_a_composition(job):
    (evidence,) = build_target(plan(job, COMPOSED)).evidence
    assert isinstance(evidence, po.Preferences)
    assert evidence.beta == 0.5
    assert list(evidence.model.weights) == ["has_b", "polite"]
    assert evidence.model.weights["has_b"].value > 0


def test_rules(job):
    rows = [
        {"prompt": "x", "completion": f"{word} {n}", "rule": "polite", "violated": word == "b"}
        for n in range(10)
        for word in ("a", "b")
    ]
    rows = [{**row, "prompt": f"q{at}"} for at, row in enumerate(rows)]
    po.fit_rules("tiny", rows, tuning="head", epochs=1, output_dir=job.folder / "rules")
    (evidence,) = build_target(plan(job, RULES)).evidence
    assert isinstance(evidence, po.Rules)
    assert evidence.weights == {"polite": 2.0}


REFUSED = {
    "no such rules": (RULES, "there are no rules at"),
    "a beta of rules": (RULES + "\nbeta = 1.0", "rules have no 'beta'"),
    "no pairs": (COMPOSED.replace('pairs = "pairs.jsonl"\n', ""), "'pairs' is missing"),
    "no such pairs": (COMPOSED.replace("pairs.jsonl", "pear.jsonl"), "there is no file .*pear"),
    "no beta": (COMPOSED.replace("beta = 0.5\n", ""), "'beta' is missing"),
    "an idle kappa": (COMPOSED.replace("beta = 0.5", "beta = 0.5\nkappa = 2.0"), "no effect"),
    "a judge without a question": (
        COMPOSED.replace('question = "Is it polite?"', ""),
        "'question' is missing",
    ),
    "a feature that is both": (
        COMPOSED.replace('"my_features.py:has_b"', '"my_features.py:has_b"\nmodel = "tiny"'),
        "a feature is a function, or a judge's model",
    ),
    "a misspelt feature": (COMPOSED.replace("py:has_b", "py:has_bb"), "did you mean 'has_b'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(job, name):
    text, message = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        plan(job, text)
    assert re.search(message, str(caught.value).replace("\n", " ")), str(caught.value)

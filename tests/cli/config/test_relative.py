"""The best of n and anchored rewards from a config: made as by Python, refused in one line."""

from __future__ import annotations

import json

import pytest

import posteriori as po
from posteriori.cli.build import build_target
from posteriori.config.check import make_plan
from posteriori.errors import ConfigError

PLAIN = """kind = "reward"
function = "my_reward.py:score"
beta = 0.5"""
BEST = PLAIN.replace('"reward"', '"best_of"').replace("beta = 0.5", "n = 4\nnum_samples = 300")
ANCHORED = PLAIN.replace('"reward"', '"anchored"') + "\nthreshold = 1.0"


def target(job, text: str) -> po.Target:
    job.change(PLAIN, text)
    return build_target(make_plan(job.config, []))


def test_the_best_of_four(job):
    whole = target(job, BEST + "\nseed = 3")
    (evidence,) = whole.evidence
    assert isinstance(evidence, po.BestOf)
    assert (evidence.n, evidence.pool.num_samples, evidence.pool.seed) == (4, 300, 3)
    assert abs(po.exact(whole).log_z).max() < 1e-8


def test_an_anchored_reward(job):
    (evidence,) = target(job, ANCHORED).evidence
    assert isinstance(evidence, po.Anchored)
    assert (evidence.beta, evidence.threshold) == (0.5, 1.0)


@pytest.mark.parametrize("text", [BEST, ANCHORED])
def test_a_whole_run(job, text):
    job.change(PLAIN, text)
    assert job.fit("--quiet", "--set", "evaluate.num_samples=20").code in (0, 1)
    assert json.loads((job.output / "evaluation.json").read_text())
    assert job.sample("-o", str(job.folder / "draws.jsonl"), "--num-samples", "10").code == 0


REFUSED = {
    "no n": (BEST.replace("n = 4\n", ""), "'n' is missing"),
    "n of 0": (BEST.replace("n = 4", "n = 0"), "n.*= 0 is not valid"),
    "a beta of the best": (BEST + "\nbeta = 1.0", "a best_of has no 'beta'.*order of the scores"),
    "the best of nothing": ('kind = "best_of"\nn = 4', "'function' is missing"),
    "no threshold": (ANCHORED.replace("threshold = 1.0", ""), "'threshold' is missing"),
    "no beta": (ANCHORED.replace("beta = 0.5", ""), "'beta' is missing"),
    "a misspelt function": (BEST.replace("py:score", "py:scor"), "did you mean 'score'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(job, name):
    text, message = REFUSED[name]
    job.change(PLAIN, text)
    with pytest.raises(ConfigError) as caught:
        make_plan(job.config, [])
    import re

    assert re.search(message, str(caught.value).replace("\n", " ")), str(caught.value)

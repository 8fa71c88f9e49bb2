"""Rows done by an executor: the same result. (Ray's own actors: `tests/ray_actors`.)"""

from __future__ import annotations

import sys

import pytest
import torch
from helpers import PROMPTS, reward

import posteriori as po
from posteriori.config.read_config import read_config
from posteriori.distributed.executor import spread_over
from posteriori.errors import ConfigError, DistributedError


class InThrees:
    """Does three rows at a time, here."""

    def __init__(self):
        self.pieces = 0

    def map(self, number, work):
        spans = [slice(at, min(at + 3, number)) for at in range(0, number, 3)]
        self.pieces += len(spans)
        return [work(each) for each in spans]


@pytest.fixture
def target(gpt2):
    return po.Target(gpt2, po.Reward(reward, beta=1.0), list(PROMPTS), 4)


def test_draws_scores_and_counts_are_the_same(target, gpt2):
    here = po.sample(target, num_samples=5, seed=0)
    calls = target.evidence[0].counts.completions
    with spread_over(InThrees()) as _:
        there = po.sample(target, num_samples=5, seed=0)
    assert torch.equal(here.completions.tokens_NL, there.completions.tokens_NL)
    assert (here.log_prior_N - there.log_prior_N).abs().max() < 1e-5
    assert torch.equal(here.log_evidence_N, there.log_evidence_N)
    assert target.evidence[0].counts.completions == 2 * calls == 30
    assert here.cost.evidence_calls == there.cost.evidence_calls
    assert here.cost.lm_tokens == there.cost.lm_tokens


def test_drawing_and_the_function_are_both_cut(target):
    executor = InThrees()
    with spread_over(executor):
        po.sample(target, num_samples=5, seed=0)
    assert executor.pieces == 2 * 5


def test_what_goes_token_by_token_is_refused(target):
    with spread_over(InThrees()), pytest.raises(DistributedError, match="leave out Ray"):
        po.sample(target, "smc", num_samples=4)


def test_without_ray_it_is_said_how_to_get_it(target, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for ray in (2, po.RayConfig(actors=2)):
        with pytest.raises(ConfigError, match=r"pip install 'posteriori\[ray\]'"):
            po.sample(target, num_samples=4, ray=ray)
    with pytest.raises(ConfigError, match="cannot be imported"):
        po.RayActors(2)


@pytest.mark.parametrize("wrong", [0, True, "two", 1.5])
def test_what_is_no_number_of_actors_is_refused(target, wrong):
    with pytest.raises(ConfigError, match="'actors' = "):
        po.sample(target, num_samples=4, ray=wrong)


def test_a_config_has_a_table(tmp_path):
    file = tmp_path / "run.toml"
    lines = 'prompts = ["x"]\nmax_new_tokens = 2\nevidence = []\n[ray]\nactors = 3\n'
    file.write_text(lines)
    assert read_config(file, []).ray == po.RayConfig(actors=3)
    file.write_text(lines + "gpus = 1\n")
    with pytest.raises(ConfigError, match="gpus_per_actor"):
        read_config(file, [])

"""A prior with a prefix before every prompt, from a config."""

from __future__ import annotations

import torch
from helpers import generator

import posteriori as po
from posteriori.cli.build import build_target
from posteriori.config.check import make_plan

EVIDENCE = """[[evidence]]
kind = "reward"
function = "my_reward.py:score"
beta = 0.5
"""


def prefixed(job, prefix: str = "d e "):
    job.change('path = "model"', f'path = "model"\nprompt_prefix = "{prefix}"')
    return job


def test_it_is_the_model_told_something_first(job):
    target = build_target(make_plan(prefixed(job).config, []))
    assert isinstance(target.prior, po.Prompted)
    bare = po.load(job.folder / "model")
    drawn = bare.sample(["a b"], 8, 3, generator())
    told = bare.completions(["d e a b"], drawn.completion_ids, 3)
    torch.testing.assert_close(
        target.prior.log_prob(drawn).detach(), bare.log_prob(told).detach(), rtol=0, atol=1e-6
    )


def test_context_distillation_from_a_config(job):
    """Without evidence the target is the prompted prior, and the policy starts as the bare one."""
    prefixed(job).change(EVIDENCE, "")
    job.change("max_new_tokens = 3", "max_new_tokens = 3\nevidence = []")
    result = job.fit("--json", "-q", "--set", "fit.learning_rate=1e-9")
    assert result.code in (0, 1), result.err
    figures = result.json["policies"]
    assert abs(figures["prior"]["figures"]["kl_to_target"]["value"]) < 1e-6
    start = figures["rloo"]["figures"]["kl_to_target"]
    bare = job.evaluate(str(job.folder / "model"), "--json", "-q").json["policies"]
    (again,) = (each["figures"]["kl_to_target"] for name, each in bare.items() if name != "prior")
    assert start["value"] > 0
    assert abs(start["value"] - again["value"]) < 5 * (
        start["standard_error"] + again["standard_error"]
    )


def test_a_prefix_that_leaves_no_room_is_refused(job):
    result = prefixed(job, "a " * 400).fit("-q")
    assert result.code == 2
    assert "does not fit" in result.err or "context" in result.err


def test_an_empty_prefix_is_refused(job):
    result = prefixed(job, "").fit("--dry-run")
    assert result.code == 2
    assert "prompt_prefix" in result.err

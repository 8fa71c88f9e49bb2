"""Ten thousand prompts: a sample of them is judged, and errors contain that choice."""

from __future__ import annotations

import time

import pytest
import torch

import posteriori as po
from posteriori.errors import ConfigError
from posteriori.models.tabular import TabularLM

NUM = 10_000


def reward(answer, **kwargs):
    return [float(each) for each in answer]


@pytest.fixture(scope="module")
def target():
    """Rows whose reward is a number of their own, so the mean over all prompts is known."""
    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=0, max_new_tokens=2)
    rows = [{"prompt": "ab"[at % 2], "answer": (at * 37 % 101) / 101} for at in range(NUM)]
    return po.Target(table, po.Reward(reward, beta=10.0), rows, 2)


def test_an_evaluation_ends_and_its_error_contains_the_choice_of_prompts(target):
    truth = sum(target.columns["answer"]) / NUM
    start = time.perf_counter()
    # Of 6 seeds none may be off by more than 6 errors: a false alarm in 1e7 of normal errors.
    for seed in range(6):
        report = po.evaluate(target, target.prior, num_samples=4, seed=seed)
        figure = report["mean_reward"]
        assert len(figure.per_prompt) == 256
        assert 0.01 < figure.standard_error < 0.03  # 0.29 / sqrt(256) = 0.018
        assert abs(figure.value - truth) < 6 * figure.standard_error
        assert figure.standard_error <= figure.standard_error_new_prompts
    assert [f.name for f in report.findings].count("prompts_sampled") == 1
    assert time.perf_counter() - start < 60


def test_all_prompts_are_judged_where_asked(target):
    some = target.sampled(300, seed=1)
    report = po.evaluate(some, some.prior, num_samples=2, max_prompts=None)
    assert len(report["mean_reward"].per_prompt) == 300
    assert "prompts_sampled" not in [f.name for f in report.findings]
    with pytest.raises(ConfigError, match="max_prompts=0 must be at least 1"):
        po.evaluate(some, some.prior, max_prompts=0)


def test_a_sample_keeps_each_rows_columns(target):
    some = target.sampled(50, seed=2)
    assert some.prompts == target.sampled(50, seed=2).prompts
    draws = po.sample(some, "importance", num_samples=1)
    assert draws.reward_N.tolist() == some.columns["answer"]
    of_whole = [target.columns["answer"][at] for at in some.rows_of_whole]
    assert some.columns["answer"] == of_whole


def test_draws_of_all_prompts_serve_a_sample_of_them():
    from posteriori.core.draw import draw

    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=0, max_new_tokens=2)
    rows = [{"prompt": "ab"[at % 2], "answer": at} for at in range(20)]
    target = po.Target(table, po.Reward(reward, beta=100.0), rows, 2)
    policy = TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=1, max_new_tokens=2)
    pool = draw(target, target.prior, 8, torch.Generator().manual_seed(0))
    report = po.evaluate(target, policy, 8, max_prompts=5, prior_draws=pool)
    some = target.sampled(5, 0)
    assert [e.value for e in report["mean_reward"].per_prompt] == some.columns["answer"]


def test_the_frontier_and_a_budget_are_found_on_a_sample(target):
    curve = po.frontier(target, num_samples=100, stages=0, max_prompts=8)
    assert len(curve.points[-1].kl.per_prompt) == 8
    assert "prompts_sampled" in [finding.name for finding in curve.findings]


def test_training_takes_64_prompts_a_step_and_starts_at_once(target):
    start = time.perf_counter()
    fit = po.fit(target, "rloo", steps=2, num_samples=2, learning_rate=1e-3)
    assert [line["draws"] for line in fit.history] == [128, 128]
    assert time.perf_counter() - start < 20

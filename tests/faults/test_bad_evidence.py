"""A reward, likelihood or constraint that misbehaves: a typed error that names what and where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError, ObjectiveError


def same(value):
    def fn(completions, **kwargs):
        return [value] * len(completions)

    return fn


def returning(answer):
    def bad_reward(**kwargs):
        return answer

    return bad_reward


def raising(completions, **kwargs):
    raise KeyError("no such judge")


def target(table, evidence) -> po.Target:
    return po.Target(table, evidence, table.prompts, 3)


BAD_REWARDS = {
    "NaN": (same(math.nan), "returned nan for completion 0"),
    "one NaN among others": (
        lambda completions, **kw: [0.0] * (len(completions) - 1) + [math.nan],
        r"returned nan for completion \d+",
    ),
    "numpy NaN": (lambda completions, **kw: np.full(len(completions), np.nan), "returned nan"),
    "+inf": (same(math.inf), "returned inf for completion 0"),
    "strings": (same("0.5"), "returned '0.5' for completion 0"),
    "lists": (same([0.5]), r"returned \[0.5\] for completion 0"),
    "too few values": (
        lambda completions, **kw: [0.0] * (len(completions) - 1),
        r"returned \d+ values for \d+ completions",
    ),
    "too many values": (
        lambda completions, **kw: [0.0] * (len(completions) + 1),
        r"returned \d+ values for \d+ completions",
    ),
    "no values": (returning([]), r"returned 0 values for \d+ completions"),
    "a number": (returning(0.5), "returned float '0.5'"),
    "a scalar tensor": (lambda **kw: torch.tensor(0.5), "returned"),
    "a string": (returning("0.5"), "returned str '0.5'"),
    "None": (returning(None), "returned NoneType"),
    "a generator": (lambda completions, **kw: (0.0 for _ in completions), "returned generator"),
    "raises": (raising, "raised KeyError: 'no such judge'"),
    "needs a missing column": (lambda completions, answer: [0.0], "needs an argument 'answer'"),
}


@pytest.mark.parametrize("name", BAD_REWARDS)
@pytest.mark.parametrize("verb", ["fit", "evaluate", "exact"])
def test_a_bad_reward_is_a_typed_error(table, name, verb):
    fn, message = BAD_REWARDS[name]
    run = {
        "fit": lambda bad: po.fit(bad, "rloo", steps=2, num_samples=4),
        "evaluate": lambda bad: po.evaluate(bad, table, num_samples=4),
        "exact": lambda bad: po.exact(bad),
    }[verb]
    # A column that is missing is missed when the target is made, the rest when it is asked.
    with pytest.raises(EvidenceError, match=message) as caught:
        run(target(table, po.Reward(fn, beta=1.0)))
    assert "reward function" in str(caught.value.where)
    assert caught.value.hint


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, -math.inf, "0.5", [0.5]])
def test_a_likelihood_outside_the_unit_interval(table, value):
    with pytest.raises(EvidenceError, match="likelihood function"):
        po.evaluate(target(table, po.Likelihood(same(value))), table, num_samples=4)


@pytest.mark.parametrize("value", [0.5, 2, "yes", None, math.nan, [True]])
def test_a_constraint_that_is_not_a_bool(table, value):
    with pytest.raises(EvidenceError, match="constraint"):
        po.evaluate(target(table, po.Constraint(same(value))), table, num_samples=4)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_beta_that_is_no_price(beta):
    with pytest.raises(ConfigError, match="must be a positive number"):
        po.Reward(same(0.0), beta=beta)


NOTHING = {
    "reward of -inf": po.Reward(same(-math.inf), beta=1.0),
    "likelihood of 0": po.Likelihood(same(0.0)),
    "unsatisfiable constraint": po.Constraint(same(False)),
}


@pytest.mark.parametrize("name", NOTHING)
def test_evidence_that_rules_everything_out_says_so(table, name):
    report = po.evaluate(target(table, NOTHING[name]), table, num_samples=50)
    assert report["log_z"].value == -math.inf
    assert report["kl_to_target"].value == math.inf
    assert report["ess"].value == 0.0
    levels = {finding.name: finding.level for finding in report.findings}
    assert levels["evidence_never_satisfied"] == "stop"
    assert np.all(np.isneginf(po.exact(target(table, NOTHING[name])).log_z))


@pytest.mark.parametrize("objective", ["rl", "rloo", "reinforce"])
@pytest.mark.parametrize("name", NOTHING)
def test_no_objective_trains_on_evidence_of_zero(table, objective, name):
    with pytest.raises(ObjectiveError, match="the evidence rules out 8 of 8 draws"):
        po.fit(target(table, NOTHING[name]), objective, steps=2, num_samples=4)


def test_evidence_that_rules_out_some_draws_is_counted(table):
    """Constraint "does not start with a": the prior's KL(pi, p*) is infinite, log Z is not."""
    constraint = po.Constraint(lambda completion_ids, **kw: [y[0] != 1 for y in completion_ids])
    bad = target(table, constraint)
    report = po.evaluate(bad, table, num_samples=500)
    assert report["kl_to_target"].value == math.inf
    assert math.isfinite(report["log_z"].value)
    assert "evidence_ruled_out" in {finding.name for finding in report.findings}
    with pytest.raises(ObjectiveError, match="rules out"):
        po.fit(bad, "rloo", steps=5, num_samples=16)


@pytest.mark.parametrize("objective", ["rloo", "rl"])
def test_a_single_draw_has_no_leave_one_out_baseline(table, objective):
    with pytest.raises(ObjectiveError, match="num_samples to 2"):
        po.fit(target(table, po.Reward(same(0.0), beta=1.0)), objective, steps=1, num_samples=1)


def test_reinforce_needs_two_draws_in_the_whole_step(table):
    one_prompt = po.Target(table, po.Reward(same(0.0), beta=1.0), ["x"], 3)
    with pytest.raises(ObjectiveError, match="num_samples to 2"):
        po.fit(one_prompt, "reinforce", steps=1, num_samples=1)
    po.fit(target(table, po.Reward(same(0.0), beta=1.0)), "reinforce", steps=1, num_samples=1)

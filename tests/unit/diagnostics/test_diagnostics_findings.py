"""Findings: each speaks where it should, and none of a policy that has arrived or not set out."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import CASES, WORDS
from helpers import reward as oracle_reward
from tables import as_table, off_the_curve, posterior_table, tabular_oracle, tilted

import posteriori as po
from posteriori.diagnostics.evaluate.metrics import FIGURES

COMPARING = {
    "collapsed",
    "not_converged",
    "past_the_target",
    "over_optimised",
    "mostly_truncated",
    "evidence_ruled_out",
    "evidence_never_satisfied",
}


def findings(target, lm, num_samples: int = 1000, seed: int = 0) -> dict[str, po.Finding]:
    report = po.evaluate(target, lm, num_samples, seed)
    return {finding.name: finding for finding in report.findings}


def check_words(finding: po.Finding) -> None:
    """It names a figure that it rests on, and what to try."""
    assert any(name in finding.message for name in (*FIGURES, "evidence")), finding.message
    assert finding.hint.endswith(".")


@pytest.fixture(scope="module", params=CASES)
def oracle(request) -> po.Target:
    return tabular_oracle(request.param, oracle_reward)


@pytest.mark.parametrize("beta", [2.0, 0.5, 0.1])
def test_nothing_is_said_against_the_posterior_or_the_prior(oracle, beta):
    target = po.Target(oracle.prior, po.Reward(oracle_reward, beta=beta), oracle.prompts, 4)
    arrived = posterior_table(target)
    copy = as_table(po.exact(target), po.exact(target).log_prior)
    for seed in range(3):
        for lm in (arrived, target.prior, copy):
            for name in findings(target, lm, seed=seed):
                assert name not in COMPARING, name


@pytest.mark.parametrize(("t", "name"), [(0.3, "not_converged"), (3.0, "past_the_target")])
def test_a_posterior_of_another_strength_is_told_from_the_target(oracle, t, name):
    found = findings(oracle, posterior_table(oracle, t))
    assert found.keys() & COMPARING <= {name, "collapsed"}
    assert found[name].level == "warn"
    assert f"posterior at beta {0.5 / t:.2g}"[:20] in found[name].message
    check_words(found[name])


def test_nats_that_bought_nothing_are_named(oracle):
    exact = po.exact(oracle)
    found = findings(oracle, as_table(exact, tilted(exact, -1.0)))["over_optimised"]
    assert "the prior itself has no less evidence" in found.message
    noise = off_the_curve(exact, t=0.2)
    figures = {k: float(v.mean()) for k, v in exact.evaluate(noise).items()}
    assert figures["wasted_nats"] > 0.6 * figures["kl_to_prior"]
    found = findings(oracle, noise)["over_optimised"]
    assert "a posterior has as much evidence" in found.message
    check_words(found)


def test_most_of_what_was_paid_for_is_not_called_wasted(oracle):
    exact = po.exact(oracle)
    noise = off_the_curve(exact, t=1.0)
    figures = {k: float(v.mean()) for k, v in exact.evaluate(noise).items()}
    assert 0.02 < figures["wasted_nats"] < 0.4 * figures["kl_to_prior"]
    assert "over_optimised" not in findings(oracle, noise)


def spread_over(exact, count: int) -> po.TabularLM:
    """Evenly over the `count` likeliest outcomes of the target: entropy log count."""
    log_pi = []
    for log_star in exact.log_posterior:
        kept = log_star.topk(count).indices
        row = torch.full_like(log_star, -math.inf)
        row[kept] = -math.log(count)
        log_pi.append(row)
    return as_table(exact, log_pi)


@pytest.mark.parametrize(("count", "level"), [(1, "stop"), (3, "warn"), (30, None)])
def test_a_collapse_has_a_degree(oracle, count, level):
    """The targets have 3.9 and 4.1 nats, 50 and 60 completions: a tenth is 5, half is 7."""
    found = findings(oracle, spread_over(po.exact(oracle), count))
    assert (found["collapsed"].level if "collapsed" in found else None) == level
    if level:
        check_words(found["collapsed"])


def test_a_target_that_is_itself_on_few_completions_is_no_collapse(oracle):
    """Few distinct draws are right where the target has few."""
    sharp = oracle.tempered(20.0)
    report = po.evaluate(sharp, posterior_table(sharp), 1000)
    assert report["unique_fraction"].value < 0.1
    assert "collapsed" not in {finding.name for finding in report.findings}


def ends(completion_ids, **kwargs):
    return [3.0 * (y[-1] == 0) for y in completion_ids]


def test_completions_that_never_end_are_named_where_the_targets_do(oracle):
    target = po.Target(oracle.prior, po.Reward(ends, beta=1.0), oracle.prompts, 4)
    exact, on = po.exact(target), posterior_table(target, -0.5)
    assert exact.evaluate(on)["truncated"].mean() > 0.6
    assert exact.evaluate_target()["truncated"].mean() < 0.4
    check_words(findings(target, on)["mostly_truncated"])
    assert "mostly_truncated" not in findings(target, target.prior)


def nothing(completions, **kwargs):
    return [False] * len(completions)


def no_twos(completion_ids, **kwargs):
    return [2 not in y for y in completion_ids]


def test_evidence_that_nobody_satisfies_and_evidence_that_is_broken():
    prior = po.TabularLM.random(WORDS[:4], 3, ("x",), seed=1)
    never = po.Target(prior, po.Constraint(nothing), ["x"], 3)
    found = findings(never, po.TabularLM.random(WORDS[:4], 3, ("x",), seed=2), 100)
    assert found["evidence_never_satisfied"].level == "stop"
    check_words(found["evidence_never_satisfied"])
    some = po.Target(prior, po.Constraint(no_twos), ["x"], 3)
    found = findings(some, po.TabularLM.random(WORDS[:4], 3, ("x",), seed=2), 100)
    assert found["evidence_ruled_out"].level == "warn"
    assert "over_optimised" not in found


def test_the_tail_of_weights_that_are_nearly_equal_is_not_asked():
    """k-hat is a shape: large here too, where log Z is known to a hundredth."""
    oracle = tabular_oracle("case_1", oracle_reward)
    near = off_the_curve(po.exact(oracle), t=1.0, scale=0.05)
    report = po.evaluate(oracle, near, 2000)
    assert report["pareto_k"].value > 0.7
    assert report["log_z"].standard_error < 0.01
    assert not report.findings


def test_weights_that_cannot_be_trusted_are_named():
    """The oracle's prior at beta 0.1 has never seen what the posterior is made of."""
    target = tabular_oracle("case_2", oracle_reward, 0.1)
    exact = po.exact(target)
    found = findings(target, as_table(exact, tilted(exact, 0.3)), 200)
    check_words(found["weights_not_trusted"])

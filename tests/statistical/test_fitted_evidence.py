"""Figures at a lambda that was fitted to draws cover those at the lambda of all outcomes.

Of 24 intervals of 95% at least 15 hold, but for a chance of P(Binomial(24, 0.95) < 15) = 4e-8.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch

import posteriori as po
from posteriori.core.estimates import combine, with_error_of_fit
from posteriori.core.types import Estimate

RUNS, FEWEST = 24, 15
WORDS = ("<eos>", "a", "b", "c")
FIGURES = ("log_z", "elbo", "kl_to_target", "eubo", "target_entropy")


def has_b(completion_ids, **kwargs):
    return [2 in y for y in completion_ids]


def length(completion_ids, **kwargs):
    return [len(y) / 2 for y in completion_ids]


def target_of(moments) -> po.Target:
    lm = po.TabularLM.random(WORDS, 2, ("x", "y"), seed=5)
    return po.Target(lm, moments, lm.prompts, 2)


def moments_of(method="draws", seed=0, **settings):
    wanted = {"has b": (has_b, 0.55), "length": (length, 0.85)}
    return po.Moments(wanted, method=method, num_samples=60, seed=seed, **settings)


@functools.cache
def scored() -> dict[str, list[float]]:
    """How far each figure is from that at the lambda of all outcomes, in stated errors."""
    exact = target_of(moments_of("enumerate"))
    policy = po.TabularLM(exact.prior.logits * 0.8, exact.prompts, WORDS)
    truth = {k: float(v.mean()) for k, v in po.exact(exact).evaluate(policy).items()}
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for seed in range(RUNS):
        report = po.evaluate(target_of(moments_of(seed=seed)), policy, 600, seed)
        for name in FIGURES:
            off = abs(report[name].value - truth[name])
            found[name].append(off / report[name].standard_error)
    return found


@pytest.mark.parametrize("figure", FIGURES)
def test_lambdas_error_is_in_an_evaluation(figure):
    assert sum(off < 1.96 for off in scored()[figure]) >= FEWEST


@pytest.mark.parametrize("per_prompt", [False, True])
def test_and_in_the_log_z_of_samplers(per_prompt):
    """The mutant is the same lambda given, and not fitted."""
    truth = float(po.exact(target_of(moments_of("enumerate", per_prompt=per_prompt))).log_z.mean())
    held = {"fitted": 0, "given": 0}
    for seed in range(RUNS):
        moments = moments_of(seed=seed, per_prompt=per_prompt)
        fitted = target_of(moments)
        given = po.Target(fitted.prior, moments.frozen(), fitted.prompts, 2)
        for name, target in (("fitted", fitted), ("given", given)):
            log_z = po.sample(target, "importance", 1500, seed=seed).log_z
            held[name] += abs(log_z.value - truth) < 1.96 * log_z.standard_error
    assert held["given"] < FEWEST <= held["fitted"]


def test_the_error_of_log_z_is_the_attained_means_times_lambdas():
    """d log Z / d lambda = E_p*[phi], here with one feature: exactly."""
    moments = po.Moments({"has b": (has_b, 0.8)}, method="draws", num_samples=120)
    target = target_of(moments)
    known = po.Target(target.prior, moments.frozen(), target.prompts, 2)
    drawn = po.sample(target, "importance", 500, seed=1)
    own = po.sample(known, "importance", 500, seed=1).log_z.standard_error
    attained = moments.attained(drawn)["has b"].value
    of_lambda = attained * moments.fitted.lambda_["has b"].standard_error
    assert drawn.log_z.standard_error == pytest.approx(math.hypot(own, of_lambda), rel=1e-9)


def test_a_lambda_of_all_outcomes_has_no_error():
    exact = target_of(moments_of("enumerate"))
    drawn = exact.prior.sample(exact.prompts, 5, 2, torch.Generator().manual_seed(0))
    assert exact.errors_of_fit(drawn) is None


def test_what_prompts_share_does_not_average_out():
    mean = combine([Estimate(0.0, 0.3, "unbiased", 500)] * 4, "unbiased")
    change = torch.full((4, 1), 0.2, dtype=torch.float64)
    shared = with_error_of_fit(mean, change, shared=True)
    assert shared.standard_error == pytest.approx(math.hypot(0.15, 0.2))
    apart = with_error_of_fit(mean, change, shared=False)
    assert apart.standard_error == pytest.approx(math.hypot(0.15, 0.1))
    for each in (*shared.per_prompt, *apart.per_prompt):
        assert each.standard_error == pytest.approx(math.hypot(0.3, 0.2))
    unknown = torch.full((4, 1), math.nan, dtype=torch.float64)
    assert with_error_of_fit(mean, unknown, shared=True) == mean

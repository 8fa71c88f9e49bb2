"""The step's size: what draws say of a displacement, the first step, and the rate that follows."""

from __future__ import annotations

import math

import pytest
import torch

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.seeds import generator
from posteriori.objectives.base import log_sum_by
from posteriori.train.step_size.auto_rate import AutoRate
from posteriori.train.step_size.first_step import calibrated
from posteriori.train.step_size.step_signal import Signal, signal_of


def likes_b(completions, **kwargs):
    return [float(text.count("b")) for text in completions]


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(likes_b, beta=1.0), table.prompts, 3)


def scaled(target: po.Target, exact, scale: float):
    """prior exp(scale l) / Z with l half of the log evidence, as log-probs of all outcomes."""
    return [
        (log_prior + scale * log_e / 2).log_softmax(0)
        for log_prior, log_e in zip(exact.log_prior, exact.log_evidence, strict=True)
    ]


@pytest.mark.parametrize("forward", [False, True])
def test_slope_and_curvature_are_the_derivatives_of_the_gain(target, forward):
    """All outcomes once, as draws of a proposal under which the weights make the sums exact."""
    exact = po.exact(target)
    step = 1e-4

    def distance(scale: float) -> float:
        log_pi = scaled(target, exact, scale)
        total = 0.0
        for at, pi in enumerate(log_pi):
            star = (exact.log_prior[at] + exact.log_evidence[at]).log_softmax(0)
            p, q = (star, pi) if forward else (pi, star)
            total += float((p.exp() * (p - q)).sum())
        return total / len(log_pi)

    slope = -(distance(1 + step) - distance(1 - step)) / (2 * step)
    curvature = (distance(1 + step) - 2 * distance(1) + distance(1 - step)) / step**2
    fresh = draw(target, target.prior, 200_000, generator(0, "signal"))
    log_pi_N = fresh.log_prior_N + fresh.log_evidence_N / 2
    prompt_N = fresh.completions.prompt_index_N
    log_z_P = log_sum_by(log_pi_N - fresh.log_proposal_N, prompt_N) - math.log(200_000)
    found = signal_of(fresh, log_pi_N - log_z_P[prompt_N], forward=forward)
    assert found is not None
    # 5 standard errors are passed by chance once in 1.7 million times; the error is its own.
    assert abs(found.slope - slope) < 5 * math.sqrt(found.slope_variance)
    if forward:
        # The relative error of a second moment of so many bounded values is below a percent.
        assert found.curvature == pytest.approx(curvature, rel=0.05)


def test_at_the_prior_there_is_nothing_to_scale(target):
    fresh = draw(target, target.prior, 50, generator(0, "signal"))
    found = signal_of(fresh, fresh.log_proposal_N, forward=False)
    assert found is not None
    assert (found.slope, found.curvature) == (0.0, 0.0)


def test_without_evidence_there_is_no_forward_signal(table):
    def never(completions, **kwargs):
        return [False] * len(completions)

    target = po.Target(table, po.Constraint(never), table.prompts, 3)
    fresh = draw(target, target.prior, 5, generator(0, "signal"))
    assert signal_of(fresh, fresh.log_proposal_N, forward=True) is None


def observed(slope: float, steps: int = 30, variance: float = 0.0) -> AutoRate:
    rate = AutoRate(1.0)
    rate.calibrated = True
    for _ in range(steps):
        rate.observe(Signal(0.0, 0.0, slope, variance, 1.0))
    return rate


def test_the_rate_grows_while_the_run_gains_and_falls_where_it_wastes():
    assert observed(0.5).rate == pytest.approx(math.exp(0.2 * 0.5 * 30))
    assert observed(5.0).rate == pytest.approx(math.exp(0.2 * 30)), "at most e^0.2 in a step"
    assert observed(0.0).rate == 1.0
    assert observed(-0.5).rate == pytest.approx(math.exp(-0.2 * 0.5 * 30))
    assert 1.0 < observed(0.5, variance=100.0).rate < observed(0.5).rate, "noise makes it slow"


def test_a_displacement_is_taken_back_only_where_it_is_surely_too_large():
    assert observed(0.5).shrink == 1.0
    assert observed(-0.5).shrink == pytest.approx(1 - 0.2 * 0.5, rel=1e-6)
    assert observed(-5.0).shrink == pytest.approx(0.8)
    assert observed(-0.5, variance=100.0).shrink == 1.0


def test_its_state_is_all_of_it():
    rate = observed(0.3)
    other = AutoRate(5.0)
    other.load_state_dict(rate.state_dict())
    for each in (rate, other):
        each.observe(Signal(0.0, 0.0, -0.2, 0.1, 1.0))
    assert (rate.rate, rate.shrink) == (other.rate, other.shrink)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("power", [1, 2, 6])
def test_the_first_step_changes_as_much_as_it_should(size, power):
    """Whatever its size was, and however the change grows with it; too far is not finite."""
    parameter = torch.tensor([size], dtype=torch.float64)

    def change() -> float:
        moved = abs(float(parameter))
        return moved**power if moved < 1e3 else math.nan

    factor = calibrated([parameter], [torch.zeros(1, dtype=torch.float64)], change, 1e-3)
    assert factor is not None
    assert 5e-4 <= change() <= 2e-3
    assert float(parameter) == pytest.approx(factor * size)


def test_a_step_that_changes_nothing_is_left_alone():
    parameter = torch.tensor([3.0])
    assert calibrated([parameter], [torch.tensor([2.0])], lambda: 0.0, 1e-3) is None
    assert float(parameter) == 3.0


@pytest.mark.parametrize("first_rate", [1e-6, 1e-1])
def test_a_guess_of_the_first_rate_does_not_matter(target, first_rate):
    settings = {"steps": 60, "num_samples": 16, "seed": 0}
    guessed = po.fit(target, "rloo", first_rate=first_rate, **settings)
    usual = po.fit(target, "rloo", **settings)
    exact = po.exact(target)
    near, wanted = (exact.evaluate(f.policy)["kl_to_target"].mean() for f in (guessed, usual))
    assert near < 1.3 * wanted
    assert wanted < 0.5 * exact.evaluate(target.prior)["kl_to_target"].mean()

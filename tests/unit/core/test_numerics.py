"""Arithmetic on log-weights: against closed forms, and where weights are zero, huge or tied."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posteriori.core.numerics import ess, log_mean_exp, pareto_k, reliable_k, variance_of_mean

INF = math.inf


@pytest.mark.parametrize(
    ("log_w", "expected"),
    [
        ([0.0, 0.0], 0.0),
        ([0.0, -INF], -math.log(2)),
        ([-INF, -INF, -INF], -INF),
        ([1000.0, 1000.0 + math.log(3)], 1000.0 + math.log(2)),
        ([-1000.0, -1000.0 + math.log(3)], -1000.0 + math.log(2)),
    ],
)
def test_log_mean_exp(log_w, expected):
    assert float(log_mean_exp(torch.tensor(log_w, dtype=torch.float64))) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize(
    ("log_w", "expected"),
    [
        ([0.0] * 10, 10.0),
        ([5000.0] * 10, 10.0),
        ([-5000.0] * 10, 10.0),
        ([0.0, -INF, -INF], 1.0),
        ([0.0, 0.0, -INF, -INF], 2.0),
        ([0.0, math.log(2)], 9 / 5),
        ([-INF, -INF], 0.0),
    ],
)
def test_effective_draws(log_w, expected):
    assert float(ess(torch.tensor(log_w).double())) == pytest.approx(expected, rel=1e-9)


def test_the_variance_of_a_mean():
    assert float(variance_of_mean(torch.tensor([1.0, 2.0, 3.0, 4.0]))) == pytest.approx(5 / 12)


def pareto(k: float, num: int, seed: int = 0) -> torch.Tensor:
    """Log-weights with a generalised Pareto law of shape k: by inverting its distribution."""
    u = np.random.default_rng(seed).random(num)
    weight = -np.log1p(-u) if k == 0 else ((1 - u) ** -k - 1) / k
    return torch.tensor(np.log(weight))


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5])
@pytest.mark.parametrize("shift", [0.0, 700.0, -700.0])
def test_pareto_k_finds_the_shape_that_was_drawn(k, shift):
    """40,000 draws, a tail of 600: the estimator's standard deviation is (1 + k) / sqrt(600), and
    five of them are allowed (6e-7), with 0.02 for its pull towards 0.5."""
    allowed = 5 * (1 + max(k, 0.0)) / math.sqrt(600) + 0.02
    assert pareto_k(pareto(k, 40_000) + shift) == pytest.approx(k, abs=allowed)


@pytest.mark.parametrize("num", [100, 1000, 10_000])
@pytest.mark.parametrize("k", [0.2, 0.7, 1.2])
def test_pareto_k_is_that_of_arviz(k, num):
    """The reference implementation takes minus the log-weights. Its tail is one draw shorter."""
    from arviz_stats.base import array_stats

    log_w = pareto(k, num, seed=num)
    _, reference = array_stats.psislw(-log_w.numpy())
    assert pareto_k(log_w) == pytest.approx(float(reference), abs=0.06)


def test_zero_weights_are_left_out_of_the_tail():
    log_w = pareto(0.5, 2000)
    with_zeros = torch.cat([log_w, torch.full((500,), -INF).double()])
    assert pareto_k(with_zeros) == pareto_k(log_w)


def test_equal_weights_have_no_tail():
    assert pareto_k(torch.zeros(100)) == -INF
    assert pareto_k(torch.zeros(100) + 1e-6 * torch.arange(100)) == -INF, "rounding is no tail"
    assert pareto_k(torch.tensor([0.0] * 50 + [-3.0] * 50)) == -INF


@pytest.mark.parametrize("weights", [0, 24])
def test_too_few_weights_cannot_tell(weights):
    log_w = torch.full((100,), -INF)
    log_w[:weights] = torch.arange(weights).float()
    assert math.isnan(pareto_k(log_w))


@pytest.mark.parametrize("tail", [1e-3, 0.5], ids=["near the tie", "far from it"])
def test_a_tie_at_the_threshold_is_not_mistaken_for_a_heavy_tail(tail):
    """Discrete rewards tie: measured from the tie, half of the tail would be exact zeros."""
    below, tied = torch.linspace(-2, -1, 1000), torch.zeros(200)
    log_w = torch.cat([below, tied, tail + torch.rand(60, generator=generator()) * 0.1])
    assert pareto_k(log_w) < 0.5


def test_a_tie_at_the_threshold_counts_as_part_of_the_tail():
    """Above the tie are ten equal draws: by themselves they would have the same shape wherever they
    lie, and with the tie the tail is the heavier the further out they are."""
    far_out = [
        pareto_k(torch.tensor([0.0] * 1000 + [3.0] * 990 + [rare] * 10)) for rare in (4, 6, 8, 12)
    ]
    assert far_out == sorted(far_out)
    assert far_out[0] < 0 < far_out[-1]


def test_weights_that_span_everything_are_heavy():
    assert pareto_k(torch.linspace(-5000, 0, 1000)) > 1


def test_the_tail_of_a_mixture_is_that_of_its_heavy_part():
    light = pareto(0.0, 4000) - 20
    assert pareto_k(torch.cat([light, pareto(1.0, 4000, seed=1)])) > 0.7


@pytest.mark.parametrize(("num", "limit"), [(5, 0.0), (100, 0.5), (1000, 2 / 3), (10**6, 0.7)])
def test_the_limit_of_trust_grows_with_the_draws(num, limit):
    assert reliable_k(num) == pytest.approx(limit)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

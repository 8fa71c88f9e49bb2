"""SMC on the oracle: Z-hat against the exact Z, and bounds from both sides.

z-tests over independent populations: |mean Z-hat - Z| < 5.5 standard errors, a false alarm in 2.6e7
for each of three prompts. They are as large as it takes to find a Z that is 30% off with the same
certainty (11 standard errors), which each test checks on its own error bar.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import WORDS, OracleCase, generator, has_c, reward

import posteriori as po
from posteriori.samplers.smc.conditional import conditional_log_z
from posteriori.samplers.smc.fit_twist import fit_twist

pytestmark = pytest.mark.long

LIMIT = 5.5
GAP = 0.3


def check(drawn: po.Draws, exact: np.ndarray) -> None:
    for estimate, log_z in zip(drawn.log_z.per_prompt, exact, strict=True):
        relative = math.expm1(estimate.value - log_z)
        error = estimate.standard_error * math.exp(estimate.value - log_z)
        assert abs(relative) < LIMIT * error
        assert 2 * LIMIT * error < GAP, "too few populations to find such a gap"


@pytest.mark.parametrize(
    "settings",
    [
        {"resampling": "systematic"},
        {"resampling": "stratified"},
        {"resampling": "multinomial"},
        {"resampling": "systematic", "ess_threshold": 1.0},
    ],
    ids=str,
)
def test_z_is_right_at_beta_one_half(case, settings):
    exact = case.figures("posterior", "0.5")["log_z"]
    drawn = po.sample(
        case.target(0.5), "smc", 30_000, seed=1, replicates=600, twist="evidence", **settings
    )
    check(drawn, exact)


@pytest.mark.parametrize("twist", [{"name": "evidence"}, {"name": "rollouts", "num": 2}], ids=str)
def test_z_is_right_with_a_hard_constraint(case, twist):
    target = po.Target(case.prior(), po.Constraint(has_c), case.prompts, 4)
    drawn = po.sample(target, "smc", 4_000, seed=2, replicates=200, twist=twist)
    check(drawn, case.figures("constraint_has_c")["log_z"])


@pytest.mark.long
@pytest.mark.parametrize("name", ["case_1", pytest.param("case_2", marks=pytest.mark.slow)])
def test_z_is_right_with_a_learned_twist_and_it_helps(name):
    """It is worth twice the draws, and more: the variance without it is over twice as large."""
    case = OracleCase(name)
    target = case.target(0.5)
    fitted = fit_twist(target, steps=40, num_samples=128, seed=1)
    steered = po.sample(target, "smc", 40_000, seed=3, replicates=400, twist=fitted.twist)
    check(steered, case.figures("posterior", "0.5")["log_z"])
    plain = po.sample(target, "smc", 40_000, seed=3, replicates=400)
    assert 2 * steered.log_z.standard_error**2 < plain.log_z.standard_error**2


SEEDS = 100


@pytest.fixture(scope="module")
def bounds() -> dict[int, tuple[np.ndarray, np.ndarray, float]]:
    """For 8 and 64 particles: lower and upper bounds of 100 seeds, and the exact log Z."""
    prior = po.TabularLM.random(WORDS[:4], 4, ("x",), seed=1)
    target = po.Target(prior, po.Reward(reward, beta=0.5), ("x",), 4)
    exact = po.exact(target)
    found = {}
    for particles in (8, 64):
        lower, upper = [], []
        for seed in range(SEEDS):
            posterior = exact.log_posterior[0].exp()
            row = torch.multinomial(posterior, 1, generator=generator(seed))
            settings = {"seed": seed, "twist": "evidence"}
            drawn = po.sample(target, "smc", particles, replicates=1, **settings)
            lower.append(float(drawn.log_z))
            pinned = exact.outcomes[0].select(row)
            upper.append(float(conditional_log_z(target, pinned, particles, **settings)))
        found[particles] = np.array(lower), np.array(upper), float(exact.log_z[0])
    return found


def error(values: np.ndarray) -> float:
    return values.std(ddof=1) / math.sqrt(len(values))


@pytest.mark.parametrize("particles", [8, 64])
def test_bounds_hold_on_their_side(bounds, particles):
    """The mean of 100 seeds, with 5 standard errors for its noise: a false alarm in 3e6."""
    lower, upper, log_z = bounds[particles]
    assert lower.mean() < log_z + 5 * error(lower)
    assert upper.mean() > log_z - 5 * error(upper)
    assert lower.mean() <= log_z <= upper.mean(), "and so they do at these seeds, without"


def test_the_gap_shrinks_with_more_particles(bounds):
    """By more than 5 standard errors, and to less than a third."""
    few, many = ((upper - lower) for lower, upper, _ in (bounds[8], bounds[64]))
    assert few.mean() - many.mean() > 5 * math.hypot(error(few), error(many))
    assert many.mean() < few.mean() / 3

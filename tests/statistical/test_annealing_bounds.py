"""Annealing on the oracle and on a table: Z-hat is unbiased, and log Z lies between both bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import CASES, OracleCase, generator, has_c, reward
from scipy import stats

import posteriori as po
from posteriori.core.types import Draws
from posteriori.samplers.annealing import annealed
from posteriori.samplers.annealing.ladder import adapt_ladder
from posteriori.samplers.annealing.reverse_annealing import reverse_annealed_log_z
from posteriori.testing.kernel_matrix import UpsideDown

pytestmark = pytest.mark.long

REPLICATES = 200
RATE = 1e-6
SURE = float(stats.t.isf(RATE / 4, 99))
"""Standard errors that a mean over 100 seeds passes with probability 1e-6, over four looks at once
(two bounds, or two sides of two prompts); 5.4, where a normal would have 5.0."""


def surplus(target, seed: int) -> float:
    """By how much |t| of Z-hat, Z-hat E[r] and Z-hat P(ended) passes its limit; a population is a
    replicate. At most 0 but for a chance of 1e-6 over all prompts and figures.

    The limit is Student's quantile, and as much more as the skewness g of a replicate can make up:
    g (2 t^2 + 1) / (6 sqrt n), the first term of the Edgeworth expansion of t (Hall 1987).
    """
    exact = po.exact(target)
    ladder = (0.0, 0.2, 0.5, 1.0)
    drawn = po.sample(
        target, "annealed", 32 * REPLICATES, seed=seed, replicates=REPLICATES, ladder=ladder
    )
    limit = float(stats.t.isf(RATE / (2 * 3 * len(exact.outcomes)), REPLICATES - 1))
    found = []
    for at, outcomes in enumerate(exact.outcomes):
        mine = drawn.completions.prompt_index_N == at
        w_IK = drawn.log_weight[mine].exp().view(REPLICATES, -1)
        p = (exact.log_prior[at] + exact.log_evidence[at]).exp()
        for of_draw, of_outcome in (
            (torch.ones(len(w_IK.flatten())), torch.ones_like(p)),
            (drawn.reward_N[mine], exact.reward[at]),
            (drawn.completions.ended_N[mine].double(), outcomes.ended_N),
        ):
            mean_I = (w_IK * of_draw.view(REPLICATES, -1)).mean(1).numpy()
            error = mean_I.std(ddof=1) / math.sqrt(REPLICATES)
            assert error < 0.05 * float((p * of_outcome).abs().sum()), "gaps of half are found"
            t = (mean_I.mean() - float((p * of_outcome).sum())) / error
            skew = abs(stats.skew(mean_I)) * (2 * limit**2 + 1) / (6 * math.sqrt(REPLICATES))
            found.append(abs(t) - limit - skew)
    return max(found)


@pytest.mark.parametrize("name", CASES)
def test_annealed_is_unbiased_on_the_oracle(name):
    assert surplus(OracleCase(name).target(beta=1.0), 1) < 0


def test_annealed_is_unbiased_under_hard_evidence():
    case = OracleCase("case_1")
    target = case.target(beta=1.0)
    hard = po.Target(target.prior, [*target.evidence, po.Constraint(has_c)], case.prompts, 4)
    assert surplus(hard, 2) < 0


def test_a_move_upside_down_is_found(monkeypatch):
    monkeypatch.setattr(annealed, "SuffixMoves", UpsideDown)
    assert surplus(OracleCase("case_1").target(beta=1.0), 1) > 2


def exact_draws(target, num: int, seed: int) -> Draws:
    """`num` independent draws of p* a prompt, by enumeration."""
    exact = po.exact(target)
    random = generator(seed)
    parts = []
    for log_p, outcomes in zip(exact.log_posterior, exact.outcomes, strict=True):
        parts.append(outcomes.select(torch.multinomial(log_p.exp(), num, True, generator=random)))
    completions = type(parts[0]).concat(parts)
    nothing_N = torch.zeros(len(completions), dtype=torch.float64)
    drawn = Draws(completions, nothing_N, nothing_N, nothing_N, nothing_N)
    return replace(drawn, guarantee="exact")


def bounds(target, ladder, particles: int, seeds: int = 100) -> np.ndarray:
    """log Z-hat from below and from above; [2, seeds, prompts]."""
    below, above = [], []
    for seed in range(seeds):
        drawn = po.sample(
            target, "annealed", particles, seed=seed, replicates=1, moves=1, ladder=ladder
        )
        below.append([e.value for e in drawn.log_z.per_prompt])
        upper = reverse_annealed_log_z(
            target, exact_draws(target, particles, seed), ladder, moves=1, seed=seed
        )
        assert upper.kind == "upper_bound"
        above.append([e.value for e in upper.per_prompt])
    return np.array([below, above])


@pytest.fixture(scope="module")
def sharp() -> po.Target:
    prior = po.TabularLM.random(("<eos>", "a", "b", "c"), 3, ("x", "y"), seed=1)
    return po.Target(prior, po.Reward(reward, beta=0.25), prior.prompts, 3)


SIZES = [(1, 4), (3, 4), (12, 4), (3, 64)]
"""Rungs and particles."""


@pytest.fixture(scope="module")
def found(sharp) -> dict[tuple[int, int], np.ndarray]:
    ladders = {rungs: tuple((np.linspace(0, 1, rungs + 1) ** 2).tolist()) for rungs in (1, 3, 12)}
    sizes = SIZES
    return {(rungs, num): bounds(sharp, ladders[rungs], num) for rungs, num in sizes}


@pytest.mark.parametrize("size", SIZES)
def test_log_z_lies_between_both_bounds_in_the_mean(sharp, found, size):
    """Means over 100 seeds and two prompts, with `SURE` standard errors of slack."""
    exact = po.exact(sharp).log_z
    below, above = found[size] - exact
    for gap in (-below.mean(1), above.mean(1)):
        assert gap.mean() > -SURE * gap.std(ddof=1) / math.sqrt(len(gap))


def test_bounds_that_are_loose_are_strictly_apart(sharp, found):
    exact = po.exact(sharp).log_z
    below, above = found[1, 4] - exact
    for gap in (-below.mean(1), above.mean(1)):
        assert gap.mean() > SURE * gap.std(ddof=1) / math.sqrt(len(gap))


@pytest.mark.parametrize("order", [[(1, 4), (3, 4), (12, 4)], [(3, 4), (3, 64)]], ids=str)
def test_the_gap_shrinks_with_rungs_and_with_particles(found, order):
    """Each by at least `SURE` standard errors of the difference."""
    gaps = [(found[size][1] - found[size][0]).mean(1) for size in order]
    for wide, narrow in pairwise(gaps):
        difference = wide - narrow
        assert difference.mean() > SURE * difference.std(ddof=1) / math.sqrt(len(difference))


def test_a_ladder_from_a_pilot_keeps_z_hat_unbiased(sharp):
    """100 seeds, each with a pilot of its own: Z-hat / Z has mean 1, within `SURE` errors."""
    exact = po.exact(sharp).log_z
    ratio = np.array(
        [
            [
                math.exp(e.value - z)
                for e, z in zip(
                    po.sample(sharp, "annealed", 64, seed=s, replicates=4).log_z.per_prompt,
                    exact,
                    strict=True,
                )
            ]
            for s in range(100)
        ]
    ).mean(1)
    error = ratio.std(ddof=1) / 10
    assert error < 0.04
    assert abs(ratio.mean() - 1) < SURE * error


def test_the_way_back_is_unbiased_for_one_over_z(sharp):
    """E[exp(-lw)] = 1/Z over 5,000 exact draws per prompt: 5.5 standard errors (4e-8 each) find a
    gap of half a nat. At beta 1, where exp(-lw) has no long tail."""
    mild = po.Target(sharp.prior, po.Reward(reward, beta=1.0), sharp.prompts, 3)
    upper = reverse_annealed_log_z(mild, exact_draws(mild, 5000, 1), adapt_ladder(mild), seed=2)
    for estimate, truth in zip(upper.per_prompt, po.exact(mild).log_z, strict=True):
        assert estimate.standard_error < 0.05
        assert abs(estimate.value - truth) < 5.5 * estimate.standard_error

"""The frontier against enumeration, its inverse queries, and where it says that it ends."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import WORDS
from scipy import stats

import posteriori as po
from posteriori.core.types import Cost, Draws
from posteriori.diagnostics.frontier.best_of_n_points import mean_reward_of_best
from posteriori.diagnostics.frontier.curve import Frontier
from posteriori.diagnostics.tilting import Stage
from posteriori.errors import ConfigError, FrontierError
from posteriori.samplers.independent.best_of_n_law import best_of_n_log_prob

BETA = 0.5


def reward(completion_ids, **kwargs):
    return [1.2 * y.count(1) - 0.4 * y.count(2) + 0.1 * len(y) for y in completion_ids]


@pytest.fixture(scope="module")
def target() -> po.Target:
    prior = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=1)
    return po.Target(prior, po.Reward(reward, beta=BETA), prior.prompts, 3)


def whole_prior(target: po.Target, num: int = 100_000) -> Draws:
    """Every outcome as often as its share of `num` draws says: draws without noise."""
    exact = po.exact(target)
    parts = []
    for at, outcomes in enumerate(exact.outcomes):
        count = (exact.log_prior[at].exp() * num).round().long()
        rows = torch.arange(len(count)).repeat_interleave(count)
        log_prior, log_e = exact.log_prior[at][rows], exact.log_evidence[at][rows]
        parts.append(
            Draws(outcomes.select(rows), log_prior, log_prior, log_e, exact.reward[at][rows])
        )
    return Draws.concat(parts)


@pytest.fixture(scope="module")
def noiseless(target) -> Frontier:
    pool = whole_prior(target)
    at = target.prompt_positions(pool.completions)
    return Frontier(target, [[Stage(pool, at == p, 0.0) for p in (0, 1)]], pool, 2.0, Cost())


def figures(target: po.Target, beta: float) -> dict[str, float]:
    other = po.Target(target.prior, po.Reward(reward, beta), target.prompts, 3)
    return {name: float(v.mean()) for name, v in po.exact(other).evaluate_target().items()}


@pytest.mark.parametrize("beta", [0.25, 0.5, 2.0])
def test_without_noise_it_is_the_posterior_of_every_beta(target, noiseless, beta):
    point, exact = noiseless.at_beta(beta), figures(target, beta)
    assert point.log_z.value == pytest.approx(exact["log_z"], abs=1e-3)
    assert point.reward.value == pytest.approx(exact["mean_reward"], abs=1e-3)
    assert point.kl.value == pytest.approx(exact["kl_to_prior"], abs=1e-3)


def test_queries_are_each_others_inverse(noiseless):
    point = noiseless.at_beta(0.7)
    assert noiseless.at_kl(point.kl.value).beta == pytest.approx(0.7, rel=1e-6)
    assert noiseless.at_reward(point.reward.value).beta == pytest.approx(0.7, rel=1e-6)


def test_no_policy_lies_above_the_curve(target, noiseless):
    """KL(pi, prior) - max_t (t E_pi[log e] - log Z(t)) = min_t KL(pi, p*_t) >= 0."""
    exact = po.exact(target)
    for seed in range(5):
        policy = exact.evaluate(po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=20 + seed))
        kl, r = float(policy["kl_to_prior"].mean()), float(policy["mean_reward"].mean())
        if r > figures(target, 1e9)["mean_reward"] and kl < noiseless.points[-1].kl.value:
            assert noiseless.at_kl(kl).reward.value > r


def test_slopes_are_beta(noiseless):
    """d KL = (1/beta) d reward along the curve."""
    here, there = noiseless.at_beta(0.5), noiseless.at_beta(0.5 * (1 + 1e-5))
    slope = (here.reward.value - there.reward.value) / (here.kl.value - there.kl.value)
    assert slope == pytest.approx(0.5, rel=1e-3)


SEEDS, EACH = 60, 2000
SURE = float(stats.norm.isf(1e-6 / (2 * 9 * SEEDS)))
"""Standard errors for 1e-6 over three figures at three betas and all seeds."""


@pytest.mark.long
def test_error_bars_hold(target):
    """Every run's own error bar, and not much wider than the spread between runs."""
    runs = [po.frontier(target, EACH, seed, stages=0, strongest=2.0) for seed in range(SEEDS)]
    for beta in (2.0, 1.0, 0.85):
        exact = figures(target, beta)
        for name, key in (("log_z", "log_z"), ("reward", "mean_reward"), ("kl", "kl_to_prior")):
            found = [getattr(run.at_beta(beta), name) for run in runs]
            values = np.array([e.value for e in found])
            errors = np.array([e.standard_error for e in found])
            assert np.all(np.abs(values - exact[key]) < SURE * errors)
            # The ratio of two deviations over 60 runs: 0.5 to 2 but for 1e-6.
            assert 0.5 < values.std(ddof=1) / errors.mean() < 2.0


@pytest.fixture(scope="module")
def sharp() -> po.Target:
    """Evidence that the prior's draws do not reach."""
    prior = po.TabularLM.random(WORDS, 4, ("x",), seed=3)
    return po.Target(prior, po.Reward(reward, beta=0.1), prior.prompts, 4)


def test_annealed_draws_carry_it_on(sharp):
    alone = po.frontier(sharp, 2000, seed=1, stages=0)
    further = po.frontier(sharp, 2000, seed=1, stages=2)
    assert further.points[-1].beta < 0.7 * alone.points[-1].beta
    assert further.points[-1].source == "annealed"
    assert further.points[0].source == "prior"
    assert further.cost.lm_tokens > alone.cost.lm_tokens
    point = further.at_beta(1.5 * further.points[-1].beta)
    assert point.source == "annealed"
    target = po.Target(sharp.prior, po.Reward(reward, point.beta), sharp.prompts, 4)
    exact = po.exact(target).evaluate_target()
    # Three figures of 32 populations, each with a chance of 1e-6.
    sure = float(stats.t.isf(1e-6 / 6, 31))
    for name, key in (("log_z", "log_z"), ("reward", "mean_reward"), ("kl", "kl_to_prior")):
        estimate = getattr(point, name)
        assert abs(estimate.value - float(exact[key][0])) < sure * estimate.standard_error
        assert estimate.standard_error < 0.15


def test_it_says_where_it_ends(sharp):
    found = po.frontier(sharp, 200, stages=0)
    (finding,) = found.findings
    assert finding.name == "frontier_end"
    assert f"beta {found.points[-1].beta:.3g}" in finding.message
    with pytest.raises(FrontierError, match=r"beta=0.001 lies beyond.*known up to beta"):
        found.at_beta(0.001)
    with pytest.raises(FrontierError, match=r"KL=50 lies beyond"):
        found.at_kl(50)
    with pytest.raises(FrontierError, match=r"the prior itself has a mean reward of"):
        found.at_reward(-100)


def test_evidence_that_is_never_there(target):
    never = po.Constraint(lambda completions, **kw: [False] * len(completions))
    found = po.frontier(po.Target(target.prior, never, target.prompts, 3), 100)
    assert found.points == ()
    assert found.findings[0].level == "stop"
    with pytest.raises(FrontierError, match="nothing of it is known"):
        found.at_kl(1.0)


def test_hard_evidence_has_a_price_of_its_own(target):
    has_b = po.Constraint(lambda completion_ids, **kw: [2 in y for y in completion_ids])
    hard = po.Target(target.prior, [*target.evidence, has_b], target.prompts, 3)
    found = po.frontier(hard, 2000, stages=0, strongest=1.0)
    with pytest.raises(FrontierError, match="less than what hard evidence costs alone"):
        found.at_kl(0.01)
    weakest = po.exact(hard.tempered(1e-9)).evaluate_target()["kl_to_prior"].mean()
    low = found.points[0].kl
    assert low.value > weakest - 6 * low.standard_error > 0.1


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_against_its_law(target, n):
    exact = po.exact(target)
    pool = whole_prior(target)
    for at in (0, 1):
        law = best_of_n_log_prob(exact.log_prior[at], exact.log_evidence[at], n).exp()
        rows = pool.completions.prompt_index_N == at
        found = mean_reward_of_best(pool.log_evidence_N[rows], pool.reward_N[rows], n)
        assert found.value == pytest.approx(float((law * exact.reward[at]).sum()), abs=1e-3)


def test_best_of_ns_error_bar_is_that_of_a_resampled_pool():
    """The delta method against the bootstrap."""
    random = torch.Generator().manual_seed(0)
    score = torch.randint(0, 40, (300,), generator=random).double()
    noise = torch.randn(300, dtype=torch.float64, generator=random)
    own = score / 7 + noise
    again = torch.randint(0, 300, (2000, 300), generator=random)
    values = [mean_reward_of_best(score[rows], own[rows], 8).value for rows in again]
    found = mean_reward_of_best(score, own, 8)
    assert found.standard_error == pytest.approx(np.std(values), rel=0.15)


def test_wrong_use(target, noiseless):
    for call in (
        lambda: po.frontier(target, 10),
        lambda: po.frontier(target, 200, strongest=0.0),
        lambda: noiseless.at_kl(-1.0),
        lambda: noiseless.at_beta(0.0),
        lambda: noiseless.at_reward(math.nan),
    ):
        with pytest.raises(ConfigError):
            call()


def test_groups_count_as_one_draw_each(target):
    """Draws that are all there twice have the error bar of half as many, or hardly more: groups
    have fewer degrees of freedom. Taken for twice as many, it would be 0.71 of it."""
    pool = po.sample(target, "importance", 200, seed=1)
    rows = torch.arange(len(pool))
    twice = Draws.concat([pool, pool])
    twice = replace(twice, group_N=torch.cat([rows, rows]), log_weight_N=twice.log_evidence_N)
    once = replace(pool, log_weight_N=pool.log_evidence_N)
    first = torch.zeros(len(pool), dtype=torch.bool)
    first[:200] = True
    both = torch.cat([first, first])
    single, double = Stage(once, first, 1.0).at(1.5), Stage(twice, both, 1.0).at(1.5)
    assert double.kl.value == pytest.approx(single.kl.value)
    ratio = double.kl.standard_error / single.kl.standard_error
    assert 1 - 1e-9 <= ratio < 1.1


def test_a_prompt_that_is_there_twice_counts_twice():
    prior = po.TabularLM.random(WORDS[:4], 5, ("x", "y"), seed=1)
    target = po.Target(prior, po.Reward(reward, beta=1.0), ["x", "y", "x"], 5)
    curve = po.frontier(target, 200, stages=1, strongest=100.0)
    assert {point.source for point in curve.points} == {"prior", "annealed"}
    for point in curve.points:
        one, _, other = point.kl.per_prompt
        assert one.value != other.value
        error = math.hypot(one.standard_error, other.standard_error)
        # Independent draws of one posterior: as normals, 8 errors apart once in 1e15.
        assert abs(one.value - other.value) < 8 * error

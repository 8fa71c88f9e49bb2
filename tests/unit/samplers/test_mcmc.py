"""The samplers by Markov chains: where they start, what they say of themselves, what they cost."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import WORDS, has_c, reward
from scipy import stats

import posteriori as po
from posteriori.errors import ConfigError, SamplingError, SamplingStopped
from posteriori.samplers.mcmc.mixing import mixing

CHAINS = ("imh", "mh")
ALL = (*CHAINS, "power")


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)


@pytest.mark.parametrize("name", ALL)
def test_draws_of_every_prompt_weigh_the_same(target, name):
    drawn = po.sample(target, name, 50, seed=1)
    assert drawn.prompts == [p for p in target.prompts for _ in range(50)]
    assert drawn.guarantee == "asymptotic"
    assert not bool(drawn.log_weight.any())
    assert 0 < drawn.figures["acceptance"].value < 1
    assert len(drawn.figures["acceptance"].per_prompt) == 2
    density = target.log_density(drawn.completions)
    torch.testing.assert_close(drawn.log_prior_N, density.prior)
    torch.testing.assert_close(drawn.log_evidence_N, density.evidence)
    torch.testing.assert_close(drawn.reward_N, density.reward)


@pytest.mark.parametrize("name", ALL)
def test_a_seed_gives_the_same_draws(target, name):
    first, second, third = (po.sample(target, name, 20, seed=s) for s in (1, 1, 2))
    assert first.completion_ids == second.completion_ids
    assert first.completion_ids != third.completion_ids


@pytest.mark.parametrize("name", ALL)
def test_another_proposal_and_a_transformers_model(case_1, name):
    policy = po.TabularLM.random(WORDS, 4, case_1.prompts, seed=3)
    drawn = po.sample(case_1.target(), name, 8, policy, seed=0)
    torch.testing.assert_close(
        drawn.log_proposal_N, policy.log_prob(drawn.completions).detach(), rtol=0, atol=1e-12
    )
    assert len(drawn) == 24


@pytest.mark.parametrize("name", CHAINS)
def test_the_group_is_the_chain(target, name):
    """50 draws from 16 chains: three of each, and a fourth from the first two."""
    drawn = po.sample(target, name, 50, seed=1)
    counts = drawn.group_N.bincount().tolist()
    assert counts == [4, 4, *[3] * 14] * 2
    assert bool((drawn.group_N // 16 == drawn.completions.prompt_index_N).all())
    assert len(po.sample(target, name, 5, seed=1).group_N.unique()) == 10, "a chain a draw at most"


def test_chains_stand_where_their_last_accepted_proposal_was(target):
    """With thin = 1 and no burn-in a chain's neighbours differ exactly as often as it moves."""
    drawn = po.sample(target, "mh", 64, chains=1, burn_in=0, thin=1, seed=2)
    assert drawn.log_z is None
    ids = drawn.completion_ids[:64]
    changes = sum(a != b for a, b in pairwise(ids))
    assert changes <= 64 * drawn.figures["acceptance"].per_prompt[0].value + 1


def test_imh_tells_log_z_of_its_proposals(target):
    """From 16 (20 + 5 x 4) proposals a prompt, not from the draws that chains start with."""
    drawn = po.sample(target, "imh", 64, seed=3)
    exact = po.exact(target).log_z
    for estimate, truth in zip(drawn.log_z.per_prompt, exact, strict=True):
        assert (estimate.kind, estimate.num_draws) == ("lower_bound", 640)
        # 5.5 standard errors of a normal: a false alarm in 2.6e7.
        assert abs(estimate.value - truth) < 5.5 * estimate.standard_error


@pytest.mark.parametrize("name", ALL)
def test_hard_evidence_holds_for_every_draw(table, name):
    target = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    drawn = po.sample(target, name, 40, seed=4)
    assert all(3 in y for y in drawn.completion_ids)


@pytest.mark.parametrize("name", CHAINS)
def test_chains_start_from_rare_evidence(table, name):
    """One outcome in hundreds: found in rounds, and shared out where the budget ends too soon."""

    def rare(completion_ids, **kwargs):
        return [list(y) == [3, 2, 3] for y in completion_ids]

    target = po.Target(table, po.Constraint(rare), table.prompts, 3)
    share = po.exact(target).log_z
    assert share.max() < math.log(0.05)
    drawn = po.sample(target, name, 32, seed=5, burn_in=0)
    assert drawn.completion_ids == [[3, 2, 3]] * 64
    # What imh proposes is also its estimate of log Z, and hardly any of it has evidence.
    of_log_z = ["log_z_not_trusted"] if name == "imh" else []
    assert [finding.name for finding in drawn.findings] == ["convergence_unknown", *of_log_z]
    few = po.sample(target, name, 32, seed=5, burn_in=0, start_budget=400)
    assert few.completion_ids == [[3, 2, 3]] * 64
    assert few.cost.evidence_calls < drawn.cost.evidence_calls


@pytest.mark.parametrize("name", CHAINS)
def test_no_evidence_at_all_is_an_error(table, name):
    def nothing(completions, **kwargs):
        return [False] * len(completions)

    target = po.Target(table, po.Constraint(nothing), table.prompts, 3)
    with pytest.raises(SamplingError, match="none of 300 draws of the proposal has any evidence"):
        po.sample(target, name, 10, start_budget=300)


def test_power_leaves_out_chains_without_evidence(table):
    def rare(completion_ids, **kwargs):
        return [list(y) == [3, 2, 3] for y in completion_ids]

    target = po.Target(table, po.Constraint(rare), table.prompts, 3)
    drawn = po.sample(target, "power", 200, alpha=1.0, moves=2)
    assert 0 < len(drawn) < 400
    assert set(map(tuple, drawn.completion_ids)) == {(3, 2, 3)}
    assert [finding.name for finding in drawn.findings] == ["chains_without_evidence"]
    never = po.Target(
        table, po.Constraint(lambda completions, **kw: [False] * len(completions)), table.prompts, 3
    )
    with pytest.raises(SamplingError, match="all 10 chains for the prompt 'x' ended where there"):
        po.sample(never, "power", 10)


def test_power_takes_a_target_without_evidence(table):
    drawn = po.sample(po.Target(table, [], table.prompts, 3), "power", 10, alpha=2.0)
    assert drawn.cost.evidence_calls == 0
    assert len(drawn) == 20


@pytest.mark.parametrize("name", CHAINS)
def test_costs_and_progress(target, name):
    told = []
    drawn = po.sample(
        target,
        name,
        32,
        chains=8,
        burn_in=3,
        thin=2,
        on_progress=lambda *now: told.append(now),
    )
    assert told[-1] == (11, 11)
    assert drawn.cost.evidence_calls == 2 * 8 * (1 + 11)
    # Prompts of a table have one token; no completion has more than three.
    assert 2 * 8 * 12 < drawn.cost.lm_tokens < 2 * 8 * 12 * 7


@pytest.mark.parametrize("name", CHAINS)
def test_a_run_that_stops_keeps_its_finished_draws(table, name):
    calls = []

    def failing(completion_ids, **kwargs):
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("enough")
        return reward(completion_ids)

    target = po.Target(table, po.Reward(failing, beta=1.0), table.prompts, 3)
    with pytest.raises(SamplingStopped) as caught:
        po.sample(target, name, 2000, burn_in=0, thin=1)
    stopped = caught.value.draws
    assert len(stopped) == 2 * 16 * {"mh": 4, "imh": 4 * 16}[name]
    assert not bool(stopped.log_weight.any())


def test_chains_that_mix_are_not_complained_of(target):
    """600 draws at thin 20: R-hat and effective draws are as asked, on a fixed seed."""
    drawn = po.sample(target, "mh", 600, thin=20, seed=0)
    assert drawn.findings == ()
    assert drawn.figures["effective_draws"].value > 400
    assert drawn.figures["r_hat"].value < 1.04


def test_chains_that_do_not_mix_are(table):
    """Sharp evidence: a handful of steps is not enough."""
    target = po.Target(table, po.Reward(reward, beta=0.05), table.prompts, 3)
    drawn = po.sample(target, "imh", 400, burn_in=0, thin=1, seed=0)
    assert {finding.name for finding in drawn.findings} == {
        "chains_disagree",
        "few_effective_draws",
        "log_z_not_trusted",
    }
    assert all(finding.level == "warn" for finding in drawn.findings)


def test_figures_of_known_chains():
    """Independent normals: all effective. Their running mean: few. Chains apart: R-hat tells."""
    normal = np.random.default_rng(0).normal(size=(8, 500))
    r_hat, effective = mixing(normal)
    assert abs(r_hat - 1) < 0.01
    assert 3000 < effective < 5000
    walk = normal.copy()
    for step in range(1, 500):
        walk[:, step] = 0.9 * walk[:, step - 1] + math.sqrt(1 - 0.81) * normal[:, step]
    r_hat, effective = mixing(walk)
    # An AR(1) chain at 0.9 is worth 4000 (1 - 0.9) / (1 + 0.9) = 211 draws.
    assert 211 / 1.6 < effective < 211 * 1.6
    assert mixing(normal + np.arange(8)[:, None])[0] > 1.5


def test_figures_where_arviz_has_traps():
    """One value throughout, standing still apart, a coin toss, too short, a single chain."""
    assert all(map(math.isnan, mixing(np.ones((4, 50)))))
    assert mixing(np.repeat(np.arange(4.0)[:, None], 50, axis=1))[0] == math.inf
    coin = (np.random.default_rng(0).random((4, 200)) < 0.5).astype(float)
    r_hat, effective = mixing(coin)
    assert abs(r_hat - 1) < 0.05
    assert effective > 300
    assert all(map(math.isnan, mixing(np.random.default_rng(0).normal(size=(4, 3)))))
    alone = mixing(np.random.default_rng(0).normal(size=(1, 400)))
    assert math.isnan(alone[0])
    assert alone[1] > 200


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mh", {"chains": 0}, "chains"),
        ("imh", {"thin": 0}, "thin"),
        ("mh", {"start_budget": 0}, "start_budget"),
        ("power", {"alpha": 0.0}, "alpha"),
        ("annealed", {"replicates": 0}, "replicates"),
        ("annealed", {"rung_ess": 1.0}, "rung_ess"),
    ],
)
def test_settings_are_checked(target, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        po.sample(target, name, 10, **settings)


def test_log_mean_weight_of_imh_leaves_starts_out(table):
    """Under hard evidence starts are chosen for having it, and would bias Z-hat: the mean over
    100 seeds is within Student's 1e-6 quantile (two prompts), where a start more would not be."""
    target = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    settings = {"chains": 4, "burn_in": 0, "thin": 2}
    exact = np.exp(po.exact(target).log_z)
    found = []
    for seed in range(100):
        each = po.sample(target, "imh", 4, seed=seed, **settings).log_z.per_prompt
        found.append([math.exp(e.value) for e in each])
    z_hat = np.array(found)
    error = float(stats.t.isf(1e-6 / 4, 99)) * z_hat.std(0, ddof=1) / math.sqrt(len(z_hat))
    assert (np.abs(z_hat.mean(0) - exact) < error).all()
    biased = (8 * z_hat + 4) / 12
    assert (np.abs(biased.mean(0) - exact) > error).all()

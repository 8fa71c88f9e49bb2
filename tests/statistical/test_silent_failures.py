"""Worlds of rare evidence: no value is off by over five stated errors without a finding.

Each world is a table over single tokens. Where a run may be silent with probability p <= 0.01, at
most 10 of 100 runs are, but for a chance of P(Binomial(100, 0.01) > 10) = 7e-9. What draws for all
runs are made at once is judged run by run.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import posteriori as po
from posteriori.core import reliability
from posteriori.core.draw import draw
from posteriori.core.numerics import log_mean_exp
from posteriori.core.reliability import weights
from posteriori.core.seeds import generator
from posteriori.diagnostics import policy_means, tempered_reliability
from posteriori.diagnostics.evaluate.evaluate import faults_of, mixtures_of
from posteriori.diagnostics.evaluate.metrics import distances_of
from posteriori.diagnostics.frontier.frontier import frontier_of
from posteriori.diagnostics.frontier.sampler_points import sampled
from posteriori.errors import FrontierError
from posteriori.samplers.weight_findings import (
    findings_of_draws,
    log_z_of_pool,
    log_z_of_populations,
)

RUNS, MOST_SILENT = 100, 10


class World:
    """Prompt i has outcome v with probability mass[i][v] and log-evidence log_e[i][v]."""

    def __init__(self, mass, log_e, *, stated):
        self.log_prior = torch.tensor(mass, dtype=torch.float64).log()
        self.log_e = torch.tensor(log_e, dtype=torch.float64)
        prompts = [f"p{at}" for at in range(len(mass))]
        self.words = tuple(f"w{at}" for at in range(len(mass[0])))
        prior = po.TabularLM(self.log_prior[:, None], tuple(prompts), self.words)

        def reward(prompts, completion_ids, **_):
            each = zip(prompts, completion_ids, strict=True)
            return [log_e[int(prompt[1:])][ids[0]] for prompt, ids in each]

        most = max(map(max, log_e)) if stated else None
        self.target = po.Target(prior, po.Reward(reward, beta=1.0, max_reward=most), prompts, 1)
        self.log_z = float((self.log_prior + self.log_e).logsumexp(-1).mean())

    def kl(self, t):
        log_p = (self.log_prior + t * self.log_e).log_softmax(-1)
        return float((log_p.exp() * (log_p - self.log_prior)).sum(-1).mean())

    def mean_e(self, t):
        log_p = (self.log_prior + t * self.log_e).log_softmax(-1)
        return float((log_p.exp() * self.log_e).sum(-1).mean())


RARE = World([[0.6, 0.396, 0.004]], [[0.0, 0.0, 4.2]], stated=True)
JACKPOT = World([[0.6, 0.3995, 0.0005]], [[0.0, 0.1, 9.0]], stated=True)
UNEVEN = World(
    [[0.6, 0.4, 0.0001], [0.6, 0.398, 0.002]], [[0.0, -0.4, 0.0], [-7.0, -7.0, 0.0]], stated=False
)
NEAR = World([[0.4, 0.35, 0.25], [0.3, 0.3, 0.4]], [[0.0, 0.6, 1.1], [0.2, 1.0, 0.0]], stated=False)


def apart(draws):
    prompts = len(draws.completions.prompt_set)
    rows = torch.arange(len(draws)).view(prompts, RUNS, -1)
    return (draws.select(rows[:, run].flatten()) for run in range(RUNS))


def silent(estimate, found, truth):
    flagged = any(each.level in ("warn", "stop") for each in found)
    return not flagged and abs(estimate.value - truth) > 5 * estimate.standard_error


def silent_pools(world, num, seed=3):
    whole = po.sample(world.target, "importance", RUNS * num, seed=seed)
    judged = (log_z_of_pool(world.target, draws, weighted=True) for draws in apart(whole))
    return sum(silent(log_z, found, world.log_z) for log_z, found in judged)


WORLDS = pytest.mark.parametrize(
    "world", [RARE, JACKPOT, UNEVEN], ids=["rare", "jackpot", "uneven"]
)


@WORLDS
@pytest.mark.parametrize("num", [24, 120, 1000])
def test_pools_are_not_wrong_in_silence(world, num):
    """`importance`, and what stands behind the log Z of qrs, best_of_n and imh."""
    assert silent_pools(world, num) <= MOST_SILENT


@WORLDS
def test_it_is_what_was_missed_that_says_so(world, monkeypatch):
    """The rule without it, and what stood before: k-hat and the draws' own spread."""
    monkeypatch.setattr(reliability, "missed", lambda *_: 0.0)
    monkeypatch.setattr("posteriori.core.estimates.missed_error", lambda *_: 0.0)
    assert silent_pools(world, 120) > MOST_SILENT


def test_a_grade_of_another_prompt_is_what_tells_of_the_uneven_one(monkeypatch):
    own = lambda evidence, stated: [float(each.max()) for each in evidence]  # noqa: E731
    monkeypatch.setattr(reliability, "most_evidence", own)
    assert silent_pools(UNEVEN, 120) > MOST_SILENT


@WORLDS
def test_populations_are_not_wrong_in_silence(world):
    whole = po.sample(world.target, "smc", RUNS * 100, seed=5, replicates=4 * RUNS)
    count = 0
    for draws in apart(whole):
        log_z_PC = log_mean_exp(draws.log_weight.view(len(world.log_e), 4, -1))
        log_z = log_z_of_populations(world.target, draws, log_z_PC)
        found = findings_of_draws(replace(draws, log_z=log_z, findings=()), world.target)
        count += silent(log_z, found, world.log_z)
    assert count <= MOST_SILENT


@WORLDS
def test_evaluating_the_prior_is_not_wrong_in_silence(world):
    target = world.target
    whole = draw(target, target.prior, RUNS * 120, generator(7))
    truth = {"log_z": world.log_z, "elbo": world.mean_e(0.0)}
    counts = dict.fromkeys(truth, 0)
    for draws in apart(whole):
        mixtures, _ = mixtures_of(target, [(draws, draws.log_proposal_N)])
        if any(faults_of(mixtures)):
            continue
        for name, value in truth.items():
            e = distances_of(mixtures)[name]
            counts[name] += abs(e.value - value) > 5 * e.standard_error
    assert max(counts.values()) <= MOST_SILENT


def test_near_the_target_nothing_is_flagged():
    """1000 draws: with at most 1% of runs flagged, 11 of 100 are with a chance of 7e-9."""
    whole = po.sample(NEAR.target, "importance", RUNS * 1000, seed=2)
    flagged = covered = 0
    for draws in apart(whole):
        log_z, found = log_z_of_pool(NEAR.target, draws, weighted=True)
        flagged += bool(found)
        covered += abs(log_z.value - NEAR.log_z) < 1.96 * log_z.standard_error
    assert flagged <= MOST_SILENT
    # P(Binomial(100, 0.95) < 81) = 3e-8.
    assert covered >= 81


def test_the_frontier_ends_where_a_prompt_knows_nothing():
    whole = draw(UNEVEN.target, UNEVEN.target.prior, RUNS * 150, generator(9))
    blind = [p for p in apart(whole) if float(p.log_evidence_N[150:].max()) < -1]
    assert len(blind) > 50
    for pool in blind[:5]:
        with pytest.raises(FrontierError, match="beyond the frontier's end"):
            frontier_of(UNEVEN.target, pool, strongest=1.0).at_beta(1.0)


def test_errors_on_the_frontier_are_those_at_what_is_held_fixed():
    """KL at a reward and reward at a KL cover the truth: of 24 intervals of 95% at least 15 do, but
    for a chance of P(Binomial(24, 0.95) < 15) = 4e-8."""
    kl, reward, held = NEAR.kl(0.3), NEAR.mean_e(0.3), [0, 0]
    whole = draw(NEAR.target, NEAR.target.prior, RUNS * 400, generator(4))
    for pool in list(apart(whole))[:24]:
        curve = frontier_of(NEAR.target, pool, strongest=0.9)
        of_kl, of_reward = curve.at_reward(reward).kl, curve.at_kl(kl).reward
        held[0] += abs(of_kl.value - kl) < 1.96 * of_kl.standard_error
        held[1] += abs(of_reward.value - reward) < 1.96 * of_reward.standard_error
    assert min(held) >= 15


def test_the_error_at_a_reward_is_that_of_log_z_and_at_a_kl_beta_times_it():
    """The envelope theorem, where the reward is beta log e. It holds for small changes: with so
    many draws that what they may have missed is one."""
    pool = draw(NEAR.target, NEAR.target.prior, 20_000, generator(6))
    curve = frontier_of(NEAR.target, pool, strongest=0.9)
    at_reward, at_kl = curve.at_reward(NEAR.mean_e(0.3)), curve.at_kl(NEAR.kl(0.3))
    own = at_reward.log_z.standard_error
    assert at_reward.kl.standard_error == pytest.approx(own, rel=0.02)
    at_beta = curve.at_beta(at_reward.beta).kl.standard_error
    assert not 0.5 * own < at_beta < 1.5 * own, "the error at a fixed beta is another"
    expected = at_kl.beta * at_kl.log_z.standard_error
    assert at_kl.reward.standard_error == pytest.approx(expected, rel=0.02)


def populations_of(world, name, each, num):
    """log Z of runs of `each` populations, and what was found."""
    whole = po.sample(world.target, name, RUNS * num, seed=8, replicates=each * RUNS)
    for draws in apart(whole):
        log_z_PC = log_mean_exp(draws.log_weight.view(len(world.log_e), each, -1))
        log_z = log_z_of_populations(world.target, draws, log_z_PC)
        yield log_z, findings_of_draws(replace(draws, log_z=log_z, findings=()), world.target)


@pytest.mark.parametrize(("name", "each"), [("smc", 4), ("annealed", 16)])
def test_particles_near_the_target_are_not_flagged(name, each):
    """100 draws: of 100 runs at most 20 are flagged where 5% are, but for a chance of 2e-8, and 81
    intervals of 95% hold but for one of 3e-8."""
    judged = list(populations_of(NEAR, name, each, 96))
    flagged = [any(f.level != "info" for f in found) for _, found in judged]
    held = [abs(z.value - NEAR.log_z) < 1.96 * z.standard_error for z, _ in judged]
    assert sum(flagged) <= 20
    assert sum(held) >= 81


def test_it_is_chance_in_few_populations_that_is_left_out(monkeypatch):
    """The mutant judges the error with Student's t in it, as it was."""
    monkeypatch.setattr(weights, "_by_chance", lambda _: 1.0)
    monkeypatch.setattr(weights, "t_factor", lambda _: 1.0)
    judged = populations_of(SPREAD, "smc", 4, 96)
    assert sum(any(f.level != "info" for f in found) for _, found in judged) > 20


SPREAD = World([[0.6, 0.3, 0.1], [0.6, 0.2, 0.2]], [[0.0, 1.0, 2.0], [0.0, 1.5, 0.5]], stated=True)


def test_the_frontiers_end_is_not_wrong_in_silence():
    """Lognormal weights, log-sd 3.5: at the end of what 400 draws tell at least 81 of 100 intervals
    hold (95%: 3e-8)."""
    log_e = 3.5 * torch.randn(512, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    world = World([[1 / 512] * 512], [log_e.tolist()], stated=False)
    whole = draw(world.target, world.target.prior, RUNS * 400, generator(12))
    off = []
    for pool in apart(whole):
        end = frontier_of(world.target, pool, strongest=1.5).points[-1]
        off.append(abs(end.kl.value - world.kl(1 / end.beta)) / end.kl.standard_error)
    assert sum(each < 1.96 for each in off) >= 81
    assert sum(each > 5 for each in off) <= MOST_SILENT


class TestAPolicysOwnDraws:
    """One outcome in thirty is written by the policy, for evidence that the prior's draws show."""

    WORLD = World([[0.6, 0.38, 0.02]], [[0.0, 0.0, 4.0]], stated=False)

    def silent(self):
        world, num = self.WORLD, 60
        log_pi = torch.tensor([[0.6, 0.36, 0.04]], dtype=torch.float64).log()
        policy = po.TabularLM(log_pi[:, None], ("p0",), world.words)
        counts = dict.fromkeys(("elbo", "kl_to_prior"), 0)
        truth = po.exact(world.target).evaluate(policy)
        of_policy = draw(world.target, policy, RUNS * num, generator(21))
        of_prior = draw(world.target, world.target.prior, RUNS * num, generator(22))
        for mine, others in zip(apart(of_policy), apart(of_prior), strict=True):
            sides = [(each, policy.log_prob(each.completions).double()) for each in (mine, others)]
            figures = distances_of(mixtures_of(world.target, sides)[0])
            for name in counts:
                e = figures[name]
                counts[name] += abs(e.value - truth[name].mean()) > 5 * e.standard_error
        return counts

    def test_count_what_the_priors_draws_show(self):
        assert max(self.silent().values()) <= MOST_SILENT

    def test_and_are_silent_without_it(self, monkeypatch):
        monkeypatch.setattr(policy_means, "missed_of_mean", lambda *_: 0.0)
        monkeypatch.setattr(policy_means, "left_out", lambda *_: 0.0)
        assert max(self.silent().values()) > 0


def test_what_a_policy_never_writes_and_nothing_allows_has_no_say():
    """Outcomes of no evidence that the policy never writes: 0 times 0/0."""
    world = World([[0.5, 0.3, 0.2]], [[0.0, 0.5, -float("inf")]], stated=False)
    allowed = po.Constraint(lambda completion_ids, **_: [y[0] != 2 for y in completion_ids])
    flat = po.Reward(lambda completion_ids, **_: [0.5 * (y[0] == 1) for y in completion_ids], 1.0)
    target = po.Target(world.target.prior, [flat, allowed], ["p0"], 1)
    log_pi = torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64).log()
    policy = po.TabularLM(log_pi[:, None], ("p0",), world.words)
    report = po.evaluate(target, policy, 200)
    truth = float(po.exact(target).evaluate(policy, 200)["ess"].mean())
    assert abs(report["ess"].value - truth) < 5 * report["ess"].standard_error


def test_a_policy_at_the_top_of_evidence_that_is_known_is_not_flagged(monkeypatch):
    """It writes what the prior hardly does, with the most evidence there is: its weights end in a
    level, of which a fit of their tail makes a k-hat above 2. Nothing is estimated more exactly."""
    log_pi = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    policy = po.TabularLM(log_pi[:, None], ("p0",), JACKPOT.words)
    report = po.evaluate(JACKPOT.target, policy, 100, seed=1)
    assert report["pareto_k"].value > 1
    assert abs(report["log_z"].value - JACKPOT.log_z) < 0.05
    names = {finding.name for finding in report.findings}
    assert reliability.NOT_TRUSTED not in names
    monkeypatch.setattr(tempered_reliability, "share_the_largest", lambda _: False)
    found = po.evaluate(JACKPOT.target, policy, 100, seed=1).findings
    assert reliability.NOT_TRUSTED in {finding.name for finding in found}


def test_draws_of_the_target_that_are_all_alike_are_not_certain():
    """Chains that have not been where 2% of the target are."""
    world = World([[0.6, 0.39998, 0.00002]], [[0.0, 0.0, 7.0]], stated=True)
    truth = float(po.exact(world.target).evaluate_target()["mean_reward"].mean())
    chains = po.sample(world.target, "mh", 100, seed=1, burn_in=10)
    assert not bool(chains.reward_N.any())
    mean = sampled(world.target, chains).figures["mean_reward"]
    assert 0 < truth < 1.96 * mean.standard_error

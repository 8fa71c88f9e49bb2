"""Twisted SMC is properly weighted: its whole probability tree, summed, is the target.

No randomness. A table of three tokens, two or three steps, two particles: for every twist and
resampling, E[mean over the draws of w 1(y)] = p~(y) for every outcome y. Wrong variants are found.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import posteriori as po
from posteriori.samplers.smc.make_twist import make_twist
from posteriori.samplers.smc.particles import Particles
from posteriori.samplers.smc.populations import Plan, Populations
from posteriori.samplers.smc.twist_head import TwistHead
from posteriori.testing.cases import WORDS
from posteriori.testing.twists import off_target
from posteriori.testing.walk import Walk

PROMPTS = ("x", "y")


def reward(completion_ids, **kwargs):
    """Neither additive over tokens nor blind to the end; the empty text has one too."""
    return [
        math.sin(1.0 + sum((3 * t + 1) * (at + 1) for at, t in enumerate(y)))
        for y in completion_ids
    ]


def begins_with_b(completion_ids, **kwargs):
    return [y[0] == 2 for y in completion_ids]


def target(depth: int = 2, hard: bool = False) -> po.Target:
    prior = po.TabularLM.random(WORDS, depth, PROMPTS, seed=3)
    evidence = [po.Reward(reward, beta=0.7)]
    if hard:
        evidence.append(po.Constraint(begins_with_b, prefix=begins_with_b))
    return po.Target(prior, evidence, PROMPTS, depth)


def other(depth: int = 2) -> po.TabularLM:
    return po.TabularLM.random(WORDS, depth, PROMPTS, seed=5)


def learned() -> TwistHead:
    """Not trained, but not constant either."""
    head = TwistHead(2 * 3, 3, width=4, rank=2).double()
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters()):
            parameter += 0.4 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(number)
            )
    return head


TWISTS = {
    "none": "none",
    "evidence": {"name": "evidence", "temper": 0.6},
    "prefix": "prefix",
    "rollouts": {"name": "rollouts", "num": 1},
    "learned": learned(),
}


def plan(twist="none", resampling="systematic", threshold=1.0, proposal=None, **kwargs) -> Plan:
    wanted = target(**kwargs)
    depth = wanted.max_new_tokens
    made = make_twist(twist)
    proposal = wanted.prior if proposal == "prior" else other(depth)
    return Plan(wanted, proposal, made, resampling, threshold)


@pytest.mark.parametrize("threshold", [1.0, 0.8], ids=["always", "adaptive"])
@pytest.mark.parametrize("resampling", ["systematic", "stratified", "multinomial"])
@pytest.mark.parametrize("twist", ["none", "evidence", "prefix", "learned"])
def test_it_is_properly_weighted(twist, resampling, threshold):
    made = plan(TWISTS[twist], resampling, threshold, hard=twist == "prefix")
    assert off_target(made) < 1e-8


@pytest.mark.parametrize("threshold", [1.0, 0.8], ids=["always", "adaptive"])
@pytest.mark.parametrize("guidance", [0.0, 0.6, 1.0])
def test_it_is_with_a_twist_that_steers_the_proposal(guidance, threshold):
    made = plan(TWISTS["learned"], "systematic", threshold, "prior")
    assert off_target(replace(made, guidance=guidance)) < 1e-8


@pytest.mark.parametrize("threshold", [1.0, 0.8], ids=["always", "adaptive"])
def test_it_is_with_a_twist_that_is_itself_random(threshold):
    assert off_target(plan(TWISTS["rollouts"], "systematic", threshold)) < 1e-8


@pytest.mark.parametrize("twist", ["rollouts", "evidence"])
def test_hard_evidence_that_a_twist_has_not_found_yet_is_not_lost(twist):
    """The constraint is on the last token: no text before it satisfies it."""
    made = plan(TWISTS[twist])
    last = po.Constraint(lambda completion_ids, **kw: [len(y) == 2 for y in completion_ids])
    made = replace(made, target=po.Target(made.target.prior, last, PROMPTS, 2))
    assert off_target(made) < 1e-8


@pytest.mark.parametrize("proposal", ["prior", "other"])
def test_it_is_over_three_tokens(proposal):
    twist = TWISTS["evidence"]
    assert off_target(plan(twist, "systematic", 0.9, proposal, depth=3)) < 1e-8


def test_it_is_with_populations_of_unequal_size():
    assert off_target(plan(TWISTS["evidence"], "stratified"), sizes=(2, 1)) < 1e-8


class KeepsWeights(Populations):
    """After resampling, particles go on with the weights of their ancestors."""

    def _resample(self, rows):
        before_N = self.p.log_w_N.clone()
        self.p.log_w_N = before_N.clone()
        keep = self.p.keep
        seen = []
        self.p.keep = lambda ancestor_N: (seen.append(ancestor_N), keep(ancestor_N))
        super()._resample(rows)
        del self.p.keep
        if seen:
            self.p.log_w_N = before_N[seen[0]]


class DropsEnded(Populations):
    """Particles that have ended have no part in the resampling."""

    def _resample(self, rows):
        ended_N = self.there_N & ~self.p.live_N
        self.p.log_w_N = self.p.log_w_N.masked_fill(ended_N, -math.inf)
        super()._resample(rows)


class ForgetsProposal(Populations):
    """Weights without prior / proposal."""

    def __init__(self, *args):
        super().__init__(*args)
        weigh = self.p.weigh
        self.p.weigh = lambda at, log_ratio_L, log_psi_L: weigh(at, 0.0, log_psi_L)


@pytest.mark.parametrize("Mutant", [KeepsWeights, DropsEnded, ForgetsProposal])
def test_wrong_variants_are_found(Mutant):
    assert off_target(plan(TWISTS["evidence"]), kind=Mutant) > 1e-3


ONE = torch.zeros(1, dtype=torch.long)


def inverse_z(plan: Plan) -> tuple[float, float]:
    """E[1 / Z-hat] of conditional SMC, over the posterior and all choices, and 1 / Z."""
    exact = po.exact(plan.target)
    mean = total = 0.0
    for row, probability in enumerate(exact.log_posterior[1].exp().tolist()):
        if probability == 0:
            continue
        pinned = exact.outcomes[1].select([row])
        for walk in Walk(pinned=int(pinned.lengths_N)):
            run = Populations(plan, PROMPTS[1:], ONE, ONE + 2, walk, pinned)
            run.run()
            total += probability * walk.probability
            mean += probability * walk.probability * math.exp(-float(run.log_z()))
    assert abs(total - 1) < 1e-10
    return mean, math.exp(-exact.log_z[1])


def survival(plan: Plan) -> float:
    """The probability that some particle of an ordinary run has any weight."""
    alive = 0.0
    for walk in Walk():
        run = Populations(plan, PROMPTS[1:], ONE, ONE + 2, walk)
        run.run()
        alive += walk.probability * float(run.log_z() > -math.inf)
    return alive


@pytest.mark.parametrize("threshold", [1.0, 0.8], ids=["always", "adaptive"])
@pytest.mark.parametrize("twist", ["none", "evidence", "learned"])
@pytest.mark.parametrize("proposal", ["prior", "other"])
def test_conditional_smc_is_unbiased_for_the_inverse(proposal, twist, threshold):
    mean, truth = inverse_z(plan(TWISTS[twist], "multinomial", threshold, proposal))
    assert abs(mean - truth) < 1e-8


def test_with_hard_evidence_it_is_below_by_the_runs_that_die():
    """E[1 / Z-hat] = P(an ordinary run survives) / Z: still on the safe side, an upper bound."""
    made = plan("prefix", "multinomial", hard=True)
    mean, truth = inverse_z(made)
    alive = survival(made)
    assert 0.1 < alive < 0.9
    assert abs(mean - alive * truth) < 1e-8


@pytest.mark.parametrize("resampling", ["systematic", "stratified"])
def test_other_ancestors_bias_conditional_smc(resampling):
    mean, truth = inverse_z(plan(TWISTS["evidence"], resampling))
    assert abs(mean - truth) > 1e-3


def test_particles_are_where_their_tokens_say():
    """Weights of particles come from their own fields alone, so `keep` moves every one of them."""
    p = Particles.start(torch.tensor([0, 0]), torch.tensor([True, True]), 2, one_lm=True)
    p.log_q_NT[1, 0] = -1.0
    p.keep(torch.tensor([1, 1]))
    assert p.log_p_NT is p.log_q_NT
    assert p.log_p_NT[:, 0].tolist() == [-1.0, -1.0]

"""Distillation by the token, by enumeration: both KLs and mixtures, from any draws, less noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import posteriori as po
from posteriori.errors import ConfigError, ObjectiveError
from posteriori.objectives.base import policy_log_prob
from posteriori.objectives.imitation import distil as module
from posteriori.objectives.imitation.distil import Distil
from posteriori.objectives.policy_gradient.rloo import RLOO
from posteriori.testing.cases import WORDS
from posteriori.testing.divergences import kl_from_target, kl_to_target
from posteriori.testing.worlds import DEPTH, World, reward

EXACT = 1e-8
PROMPTS = ("x", "y")
ONE = ("x",)


def lm(seed: int) -> po.TabularLM:
    return po.TabularLM.random(WORDS, DEPTH, PROMPTS, seed=seed)


TEACHER = po.Teacher(lm(8))
LINE = [po.Teacher(lm(8), 0.7), po.Teacher(lm(9), -0.4), po.Reward(reward, beta=0.7)]
"""Beyond one teacher and away from another, with a reward."""


def made(world: World, kind: type[Distil] = Distil, **settings: object) -> Distil:
    objective = kind(**settings)
    objective.prepare(world.target, lambda: world.policy, seed=0)
    return objective


def mixed(mix: float):
    return lambda *law: (1 - mix) * kl_to_target(*law) + mix * kl_from_target(*law)


def off_by(world: World, objective, divergence) -> float:
    found, exact = world.expected_gradient(objective), world.gradient_of(divergence)
    assert float(exact.abs().max()) > 0.01
    return float((found - exact).abs().max())


@pytest.mark.parametrize("gradient", ["vocabulary", "token"])
@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("drawn", ["policy", "teacher", "elsewhere"])
def test_one_teacher_either_kl_or_a_mixture_from_any_draws(gradient, mix, drawn):
    world = World(
        ONE,
        2,
        elsewhere=drawn == "elsewhere",
        evidence=TEACHER,
        proposal=TEACHER.lm if drawn == "teacher" else None,
    )
    proposal = "teacher" if drawn == "teacher" else "policy"
    objective = made(world, gradient=gradient, mix=mix, proposal=proposal)
    assert objective.proposal(world.target, world.policy) is (
        TEACHER.lm if drawn == "teacher" else world.policy
    )
    assert off_by(world, objective, mixed(mix)) < EXACT


@pytest.mark.parametrize("gradient", ["vocabulary", "token"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_several_teachers_with_any_weights_and_a_reward(gradient, elsewhere):
    world = World(ONE, 2, elsewhere=elsewhere, evidence=LINE)
    assert off_by(world, made(world, gradient=gradient), kl_to_target) < EXACT


class WithoutWhatFollows(Distil):
    def weigh(self, draws, log_prob_N):
        found = super().weigh(draws, log_prob_N)
        return {**found, "slope_NL": torch.zeros_like(found["slope_NL"])}


class WithoutTheReward(Distil):
    def prepare(self, target, new_policy, seed):
        super().prepare(target, new_policy, seed)
        self._line = (replace(self._line[0], alone=True),)


class WithItsOwnDrawInTheMean(Distil):
    def weigh(self, draws, log_prob_N):
        given = module.over_others

        def everyone(values_NL, mask_NL, completions):
            return given(values_NL, mask_NL, completions) + values_NL

        module.over_others = everyone
        try:
            return super().weigh(draws, log_prob_N)
        finally:
            module.over_others = given


class WithoutRatios(Distil):
    def weigh(self, draws, log_prob_N):
        own_NL = draws.attached["log_pi_NL"]
        as_drawn = replace(draws.completions, token_log_prob_NL=own_NL)
        return super().weigh(replace(draws, completions=as_drawn), log_prob_N)


class WithTheBaselineOfTheWrongToken(Distil):
    def complete(self, target, draws):
        found = super().complete(target, draws)
        shifted_NL = found.attached["kl_NL"].roll(-1, 1)
        return replace(found, attached={**found.attached, "kl_NL": shifted_NL})


MUTANTS = [
    (WithoutWhatFollows, {}, False),
    (WithoutTheReward, {}, False),
    (WithItsOwnDrawInTheMean, {}, False),
    (WithoutRatios, {}, True),
    (WithTheBaselineOfTheWrongToken, {}, False),
]


@pytest.mark.parametrize(("kind", "settings", "elsewhere"), MUTANTS)
def test_wrong_variants_are_caught(kind, settings, elsewhere):
    world = World(ONE, 2, elsewhere=elsewhere, evidence=LINE)
    assert off_by(world, made(world, **settings), kl_to_target) < EXACT
    assert off_by(world, made(world, kind, **settings), kl_to_target) > 1e4 * EXACT


@pytest.mark.parametrize("gradient", ["vocabulary", "token"])
@pytest.mark.parametrize("mix", [0.0, 0.4])
def test_by_the_token_alone_prefixes_are_given(gradient, mix):
    """The expected gradient is autograd's of sum_t E[KLs of a token] with the law of prefixes held
    fixed: not that of the sequence's KL, and zero at the teacher."""
    world = World(ONE, 1, evidence=TEACHER)
    objective = made(world, gradient=gradient, mix=mix, horizon="token")
    assert objective.divergence is None
    policy, outcomes = world.policy, world.outcomes.completions
    whole = module.vocabulary_log_prob(TEACHER.lm, outcomes)
    read_NLK, _ = policy_log_prob(made(world), policy, outcomes, {})
    log_pi_NLV = read_NLK[..., 1:]
    kl_NL = (1 - mix) * module._kl(log_pi_NLV, whole) + mix * module._kl(whole, log_pi_NLV)
    weight_N = policy.log_prob(outcomes).exp().detach() / len(ONE)
    expected = (weight_N * kl_NL.where(outcomes.mask_NL, 0.0).sum(-1)).sum()
    (exact,) = torch.autograd.grad(expected, [policy.logits])
    found = world.expected_gradient(objective)
    torch.testing.assert_close(found, exact, rtol=0, atol=EXACT)
    assert float((found - world.gradient_of(mixed(mix))).abs().max()) > 1e4 * EXACT
    with torch.no_grad():
        policy.logits.copy_(TEACHER.lm.logits[:1])
    assert float(world.expected_gradient(objective).abs().max()) < EXACT


def noise(world: World, objective) -> float:
    """The variance of the step's gradient, summed over its entries, by enumeration."""
    if isinstance(objective, Distil):
        objective.proposal(world.target, world.policy)
    outcomes = objective.complete(world.target, world.outcomes)
    read, _ = policy_log_prob(objective, world.policy, outcomes.completions, {})
    log_pi_N = world.policy.log_prob(outcomes.completions).detach()
    square, mean = torch.zeros(()), torch.zeros_like(world.policy.logits)
    for rows in world.tuples():
        draws = outcomes.select(rows)
        loss = objective.loss(read[rows], objective.weigh(draws, log_pi_N[rows])).mean()
        (gradient,) = torch.autograd.grad(loss, [world.policy.logits], retain_graph=True)
        chance = draws.log_proposal_N.sum().exp()
        square, mean = square + chance * gradient.square().sum(), mean + chance * gradient
    return float(square - mean.square().sum())


class WithoutTheExactBaseline(Distil):
    """The drawn token's log-ratio as it is."""

    def weigh(self, draws, log_prob_N):
        found = super().weigh(draws, log_prob_N)
        q_NL = draws.completions.token_log_prob_NL
        after_NL = (draws.attached["log_pi_NL"] - q_NL).where(draws.completions.mask_NL, 0.0)
        kl_NL = draws.attached["kl_NL"].where(draws.completions.mask_NL, 0.0)
        return {**found, "slope_NL": found["slope_NL"] + after_NL.cumsum(-1).exp() * kl_NL}


def test_the_sum_over_the_vocabulary_takes_noise_out_of_the_same_gradient():
    """Far from the teacher the exact baseline alone may not (a baseline of the least noise is not
    the mean); and at the teacher nothing is left of it either way."""
    world = World(("x",), 2, evidence=TEACHER)
    drawn = made(world, WithoutTheExactBaseline, gradient="token")
    assert off_by(world, drawn, kl_to_target) < EXACT
    bare = noise(world, drawn)
    baseline = noise(world, made(world, gradient="token"))
    vocabulary = noise(world, made(world))
    assert vocabulary < min(baseline, bare)
    assert vocabulary < 0.8 * noise(world, RLOO())
    for gradient in ("vocabulary", "token"):
        same = World(("x",), 2, evidence=TEACHER)
        with torch.no_grad():
            same.policy.logits.copy_(TEACHER.lm.logits[:1])
        assert noise(same, made(same, gradient=gradient)) < EXACT


def test_it_ends_at_the_teacher_on_a_table():
    """Forward from the teacher's draws, reverse and half of each from the policy's own."""
    prior = po.TabularLM.random(WORDS, DEPTH, PROMPTS, seed=3)
    target = po.Target(prior, TEACHER, PROMPTS, DEPTH)
    for settings in ({}, {"mix": 0.5}, {"mix": 1.0, "proposal": "teacher"}, {"horizon": "token"}):
        run = {"steps": 120, "num_samples": 8, "learning_rate": 0.1, "seed": 0}
        fitted = po.fit(target, Distil(**settings), **run, on_note=lambda text: None)
        kl = po.exact(target).evaluate(fitted.policy)["kl_to_target"]
        assert float(max(kl)) < 0.003, settings
        assert fitted.last["kl_by_token"] < 0.01


def test_the_record_has_the_kl_by_the_token_without_the_noise_of_the_tokens():
    world = World(PROMPTS, 1, evidence=TEACHER)
    objective = made(world)
    objective.proposal(world.target, world.policy)
    outcomes = objective.complete(world.target, world.outcomes)
    weight_N = outcomes.log_proposal_N.exp()
    objective.weigh(outcomes, outcomes.log_proposal_N)
    by_token_N = outcomes.attached["kl_NL"].where(outcomes.completions.mask_NL, 0.0).sum(-1)
    exact = po.exact(world.target).evaluate(world.policy)["kl_to_target"]
    mean: Tensor = (weight_N * by_token_N).sum() / len(PROMPTS)
    assert float(mean) == pytest.approx(float(exact.mean()), abs=EXACT)


@pytest.mark.parametrize(
    "settings", [{"mix": 0.5}, {"mix": 1.0, "proposal": "teacher"}, {"horizon": "token"}]
)
def test_what_is_for_one_teacher_alone_is_refused_elsewhere(settings):
    for evidence in (LINE, [po.Teacher(lm(8), 0.5)], [TEACHER, po.Reward(reward, beta=1.0)], []):
        target = po.Target(lm(3), evidence, PROMPTS, DEPTH)
        with pytest.raises(ConfigError, match="is for a target that is one Teacher of weight 1"):
            Distil(**settings).prepare(target, lambda: lm(3), 0)


def test_other_vocabularies_and_tokens_that_are_ruled_out_are_refused():
    wider = po.TabularLM.random((*WORDS, "c"), DEPTH, PROMPTS, seed=1)
    target = po.Target(lm(3), TEACHER, PROMPTS, DEPTH)
    TEACHER_WIDE = po.Teacher(wider)
    object.__setattr__(target, "evidence", (TEACHER_WIDE,))
    with pytest.raises(ObjectiveError, match="rows for 4 tokens and the prior for 3"):
        Distil().prepare(target, lambda: lm(3), 0)
    narrow = lm(8)
    with torch.no_grad():
        narrow.logits[..., 2] = -torch.inf
    target = po.Target(lm(3), po.Teacher(narrow), PROMPTS, DEPTH)
    with pytest.raises(ObjectiveError, match="rule"):
        po.fit(target, Distil(), steps=1, num_samples=8)
    forward = Distil(mix=1.0, proposal="teacher")
    run = {"steps": 60, "num_samples": 8, "learning_rate": 0.1}
    policy = po.fit(target, forward, **run, on_note=lambda text: None).policy
    assert float(po.exact(target).evaluate(policy)["kl_from_target"].max()) < 0.1

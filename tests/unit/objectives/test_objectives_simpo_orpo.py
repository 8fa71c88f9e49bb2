"""simpo and orpo: pairs without a reference, where they end, and that it is not p*."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from simplex import kl, minimum, over_pairs, pairs_of, pull
from torch import Tensor
from torch.nn.functional import logsigmoid

import posteriori as po
from posteriori.errors import ConfigError
from posteriori.objectives.preference.orpo import ORPO
from posteriori.objectives.preference.simpo import SimPO
from posteriori.testing.worlds import World

EXACT = 1e-8
WRONG = 1e4 * EXACT


@pytest.fixture
def world() -> World:
    return World(("x",), 2)


def lengths(world: World) -> Tensor:
    return world.outcomes.completions.lengths_N.double()


def by_formula(world: World) -> Tensor:
    """log pi = |y| (log e - kappa), kappa by bisection."""
    log_e_N, length_N = world.exact.log_evidence[0], lengths(world)
    low, high = -50.0, 50.0
    for _ in range(200):
        kappa = (low + high) / 2
        above = float((length_N * (log_e_N - kappa)).logsumexp(0)) > 0
        low, high = (kappa, high) if above else (low, kappa)
    return length_N * (log_e_N - (low + high) / 2)


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_at_its_formula_simpos_gradient_vanishes_for_every_pair(world, beta):
    rows, ends_N = pairs_of(world), by_formula(world)
    assert float(ends_N.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    objective = SimPO(beta=beta)
    constants = objective.weigh(world.outcomes.select(rows), rows)
    at_n1 = ends_N[rows][:, None].clone().requires_grad_(True)
    objective.loss(at_n1, constants).sum().backward()
    torch.testing.assert_close(at_n1.grad, torch.zeros_like(at_n1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_simpo_ends_at_its_formula_wherever_it_starts_and_not_at_the_target(world, seed):
    log_q_N = world.exact.log_prior[0]
    population = over_pairs(world, SimPO(), log_q_N)
    start_N = torch.randn(len(log_q_N), generator=torch.Generator().manual_seed(seed)).double()
    found_N = minimum(population, start_N.log_softmax(0))
    torch.testing.assert_close(found_N, by_formula(world), rtol=0, atol=1e-6)
    assert float(pull(population, by_formula(world)).abs().max()) < EXACT
    assert float(pull(population, world.exact.log_posterior[0]).abs().max()) > 0.01
    assert kl(found_N, world.exact.log_posterior[0]) > 0.1


def test_a_margin_moves_simpo_beyond_its_labels(world):
    log_q_N = world.exact.log_prior[0]
    population = over_pairs(world, SimPO(gamma=0.5), log_q_N)
    found_N = minimum(population, log_q_N)
    assert float(pull(population, found_N).abs().max()) < EXACT
    again_N = minimum(population, torch.zeros_like(log_q_N).log_softmax(0))
    torch.testing.assert_close(found_N, again_N, rtol=0, atol=1e-6)
    assert float(pull(population, by_formula(world)).abs().max()) > 1e-3
    score_N, without_N = found_N / lengths(world), by_formula(world) / lengths(world)
    assert float(score_N.max() - score_N.min()) > float(without_N.max() - without_N.min())


class BySum(SimPO):
    def weigh(self, draws, log_prob_N):
        constants = super().weigh(draws, log_prob_N)
        return {**constants, "length_N": torch.ones_like(constants["length_N"])}


class WithReference(SimPO):
    def loss(self, token_log_prob_nL, constants):
        return super().loss(token_log_prob_nL - constants["log_prior_N"][:, None], constants)


class WithLabelsWithoutBeta(SimPO):
    @property
    def label_scale(self):
        return 1.0


@pytest.mark.parametrize("mutant", [BySum, WithReference, WithLabelsWithoutBeta])
def test_wrong_variants_of_simpo_are_caught(world, mutant):
    population = over_pairs(world, mutant(beta=0.4), world.exact.log_prior[0])
    assert float(pull(population, by_formula(world)).abs().max()) > WRONG


def preferred(world: World) -> Tensor:
    """The law of the preferred one of two draws of the prior, [N]."""
    p_N, log_e_N = world.exact.log_prior[0].exp(), world.exact.log_evidence[0]
    return 2 * p_N * ((log_e_N[:, None] - log_e_N).sigmoid() @ p_N)


def likelihoods_end(world: World) -> Tensor:
    return (preferred(world) / lengths(world)).log().log_softmax(0)


def test_without_odds_orpo_ends_at_its_formula(world):
    assert float(preferred(world).sum()) == pytest.approx(1.0, abs=1e-12)
    log_q_N = world.exact.log_prior[0]
    population = over_pairs(world, ORPO(beta=0.0), log_q_N)
    assert float(pull(population, likelihoods_end(world)).abs().max()) < EXACT
    found_N = minimum(population, log_q_N)
    torch.testing.assert_close(found_N, likelihoods_end(world), rtol=0, atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpo_ends_in_one_place_which_is_not_the_target(world, beta):
    log_q_N = world.exact.log_prior[0]
    population = over_pairs(world, ORPO(beta=beta), log_q_N)
    found_N = minimum(population, log_q_N)
    assert float(pull(population, found_N).abs().max()) < EXACT
    again_N = minimum(population, torch.zeros_like(log_q_N).log_softmax(0))
    torch.testing.assert_close(found_N, again_N, rtol=0, atol=1e-6)
    assert float(pull(population, world.exact.log_posterior[0]).abs().max()) > 0.01
    assert float(pull(population, likelihoods_end(world)).abs().max()) > 1e-3
    assert kl(found_N, world.exact.log_posterior[0]) > 0.01


def test_the_odds_alone_rest_where_they_are_the_evidences(world):
    """logit P(y) = log e + k for every outcome, with k from the sum of probabilities."""
    log_e_N, length_N = world.exact.log_evidence[0], lengths(world)
    low, high = -50.0, 50.0
    for _ in range(200):
        k = (low + high) / 2
        above = float((length_N * logsigmoid(log_e_N + k)).exp().sum()) > 1
        low, high = (low, k) if above else (k, high)
    ends_N = length_N * logsigmoid(log_e_N + (low + high) / 2)

    class Odds(ORPO):
        def loss(self, token_log_prob_nL, constants):
            return super().loss(token_log_prob_nL, constants) - ORPO(beta=0.0).loss(
                token_log_prob_nL, constants
            )

    population = over_pairs(world, Odds(beta=1.0), world.exact.log_prior[0])
    assert float(pull(population, ends_N).abs().max()) < EXACT


@pytest.mark.parametrize("kind", [SimPO, ORPO])
def test_the_prior_has_no_part_in_them(world, kind):
    """The same pairs and labels under another prior: the same end."""
    log_q_N = world.exact.log_prior[0]
    found_N = minimum(over_pairs(world, kind(), log_q_N), log_q_N)
    other = replace(world.outcomes, log_prior_N=world.outcomes.log_prior_N.flip(0))
    world.outcomes = other
    torch.testing.assert_close(
        minimum(over_pairs(world, kind(), log_q_N), log_q_N), found_N, rtol=0, atol=1e-9
    )


class OrpoByLogProbs(ORPO):
    def score_of_mean(self, mean_N):
        return mean_N


class OrpoByTheRejected(ORPO):
    def loss(self, token_log_prob_nL, constants):
        return super().loss(
            token_log_prob_nL, {**constants, "preferred_N": 1 - constants["preferred_N"]}
        )


class OrpoBySum(ORPO):
    def weigh(self, draws, log_prob_N):
        constants = super().weigh(draws, log_prob_N)
        return {**constants, "length_N": torch.ones_like(constants["length_N"])}


@pytest.mark.parametrize("mutant", [OrpoByLogProbs, OrpoByTheRejected, OrpoBySum])
def test_wrong_variants_of_orpo_are_caught(world, mutant):
    log_q_N = world.exact.log_prior[0]
    right_N = minimum(over_pairs(world, ORPO(beta=1.0), log_q_N), log_q_N)
    # By the sum P may be near 1, where the odds have no bound: outside of this world's minimum.
    population = over_pairs(world, mutant(beta=1.0), log_q_N)
    assert float(pull(population, right_N).abs().max()) > WRONG


@pytest.mark.parametrize("kind", [SimPO, ORPO])
def test_the_expected_gradient_of_the_loop_is_that_of_the_population(world, kind):
    world.outcomes = replace(world.outcomes, log_proposal_N=world.outcomes.log_prior_N)
    population = over_pairs(world, kind(), world.outcomes.log_prior_N)
    log_pi_N = world.policy.log_prob(world.outcomes.completions)
    (exact,) = torch.autograd.grad(population(log_pi_N), [world.policy.logits])
    expected = world.expected_gradient(kind())
    torch.testing.assert_close(expected, exact, rtol=0, atol=EXACT)


def test_on_preference_data_the_losses_are_those_of_the_papers():
    log_pi_N = torch.tensor([-3.0, -5.0], dtype=torch.float64)
    constants = {
        "log_prior_N": torch.zeros(2).double(),
        "length_N": torch.tensor([2, 4]),
        "preferred_N": torch.tensor([1.0, 0.0], dtype=torch.float64),
    }
    rows = [{"prompt": "x", "chosen": [1, 0], "rejected": [2, 1, 1, 0]}]
    mean = torch.tensor([-1.5, -1.25], dtype=torch.float64)
    simpo = SimPO(pairs=rows).loss(log_pi_N[:, None], constants)
    assert float(simpo) == pytest.approx(float(-logsigmoid(2 * (mean[0] - mean[1]) - 1)))
    odds = mean - torch.log1p(-mean.exp())
    orpo = ORPO(pairs=rows).loss(log_pi_N[:, None], constants)
    assert float(orpo) == pytest.approx(float(1.5 - 0.1 * logsigmoid(odds[0] - odds[1])))


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_pairs_are_learnt_from_and_judged_by_the_objectives_own_score(table, name):
    rows = [
        {"prompt": prompt, "chosen": [1, *end, 0], "rejected": [2, *end, 0]}
        for prompt in table.prompts
        for end in ([], [1], [2])
    ]
    flat = po.Reward(lambda completions, **_: [0.0] * len(completions), beta=1.0)
    target = po.Target(table, flat, table.prompts, 3)
    settings = {"pairs": rows}
    fit = po.fit(
        target, name, objective_settings=settings, steps=60, num_samples=4, learning_rate=0.1
    )
    assert fit.history[-1]["accuracy"] == 1.0
    assert fit.pairs is not None
    assert fit.pairs.accuracy.value == 1.0
    assert fit.pairs.margin.value == pytest.approx(fit.history[-1]["margin"], rel=0.2)


def test_a_margin_is_ones_own_or_the_papers():
    assert SimPO().gamma == 0.0
    assert SimPO(pairs=[{"prompt": "x", "chosen": "a", "rejected": "b"}]).gamma == 1.0
    assert SimPO(gamma=0.3).gamma == 0.3
    with pytest.raises(ConfigError, match="gamma"):
        SimPO(gamma=-1.0)

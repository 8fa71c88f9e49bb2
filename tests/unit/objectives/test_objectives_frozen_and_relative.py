"""a_star_po and rebel: a log Z that stays, and regression on the policy that it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from objective_cases import any_log_z
from simplex import minimum, pairs_of, pull
from torch import Tensor

import posteriori as po
from posteriori.errors import ConfigError, ObjectiveError
from posteriori.objectives.balance.a_star_po import AStarPO
from posteriori.objectives.balance.rebel import REBEL
from posteriori.testing.divergences import kl_to_target
from posteriori.testing.worlds import World

EXACT = 1e-8
WRONG = 1e4 * EXACT


def frozen(world: World, log_z: float, **settings) -> AStarPO:
    objective = AStarPO(log_z=(log_z,), **settings)
    objective.prepare(world.target, lambda: world.policy, seed=0)
    return objective


def balance(world: World, objective: AStarPO, log_q_N: Tensor):
    """Its expected loss for draws of q."""
    constants = objective.weigh(world.outcomes, world.outcomes.log_prior_N)

    def population(log_pi_N: Tensor) -> Tensor:
        return (log_q_N.exp() * objective.loss(log_pi_N[:, None], constants)).sum()

    return population


@pytest.mark.parametrize("off", [0.0, 0.5, -0.5])
def test_with_draws_of_the_prior_it_ends_where_the_docstring_says(off):
    """At q (log Z-hat - rho) = m pi, which is the target for the exact log Z alone."""
    world = World(("x",), 1)
    log_z, log_q_N = float(world.exact.log_z[0]) + off, world.exact.log_prior[0]
    population = balance(world, frozen(world, log_z, proposal="prior"), log_q_N)
    found_N = minimum(population, log_q_N)
    assert float(pull(population, found_N).abs().max()) < EXACT
    rho_N = log_q_N + world.exact.log_evidence[0] - found_N
    m_N = (log_q_N - found_N).exp() * (log_z - rho_N)
    torch.testing.assert_close(m_N, m_N.mean().expand_as(m_N), rtol=0, atol=EXACT)
    away = float((found_N - world.exact.log_posterior[0]).abs().max())
    assert away < EXACT if off == 0.0 else away > 0.01


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_at_the_target_a_wrong_log_z_leaves_noise_and_no_pull(off):
    """Each draw's gradient is d grad log pi, whose mean under the policy is zero."""
    world = World(("x",), 1)
    star_N = world.exact.log_posterior[0]
    objective = frozen(world, float(world.exact.log_z[0]) + off)
    constants = objective.weigh(world.outcomes, star_N)
    at_N1 = star_N[:, None].clone().requires_grad_(True)
    objective.loss(at_N1, constants).sum().backward()
    torch.testing.assert_close(at_N1.grad[:, 0], torch.full_like(star_N, off), rtol=0, atol=1e-12)
    assert float(pull(balance(world, objective, star_N), star_N).abs().max()) < EXACT


class WithItsOwnDrawsInIt(AStarPO):
    """Its own draws in log Z-hat: no baseline."""

    def weigh(self, draws, log_prob_N):
        constants = dict(super().weigh(draws, log_prob_N))
        rho_N = constants["log_target_N"] - log_prob_N
        return {**constants, "log_z_N": rho_N.mean().expand_as(rho_N)}


class WithHalfOfBeta(AStarPO):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


class WithoutPrior(AStarPO):
    def weigh(self, draws, log_prob_N):
        nothing_N = torch.zeros_like(draws.log_prior_N)
        return super().weigh(replace(draws, log_prior_N=nothing_N), log_prob_N)


@pytest.mark.parametrize("mutant", [WithItsOwnDrawsInIt, WithHalfOfBeta, WithoutPrior])
def test_wrong_variants_of_a_star_po_are_caught(mutant):
    world = World(("x",), 2)
    objective = mutant()
    objective.prepare(world.target, lambda: world.policy, seed=0)
    any_log_z(objective, world)
    wrong = world.expected_gradient(objective) - world.gradient_of(kl_to_target)
    assert float(wrong.abs().max()) > WRONG


def run_target(table: po.TabularLM, fn=None) -> po.Target:
    def length(completion_ids, **_):
        return [float(len(ids)) for ids in completion_ids]

    return po.Target(table, po.Reward(fn or length, beta=1.5), table.prompts, 3)


def test_log_z_is_estimated_once_per_prompt_with_its_error_and_then_stays(table):
    """20,000 draws; six standard errors, and so a false alarm in 5e8 per prompt."""
    target = run_target(table)
    objective = AStarPO(log_z_samples=20_000)
    fit = po.fit(target, objective, steps=6, num_samples=1, prompts_per_step=1, learning_rate=0.01)
    error_P = objective.log_z_variance_P.sqrt().numpy()
    off_P = np.abs(objective.log_z_P.numpy() - po.exact(target).log_z)
    assert np.all(off_P < 6 * error_P)
    assert np.all(error_P < 0.02)
    tokens = [record["lm_tokens"] for record in fit.history]
    costly = [at for at, each in enumerate(tokens) if each > 10_000]
    assert len(costly) == len(table.prompts), "each prompt's first step pays for it"
    of_known = [record["log_z"] for record in fit.history][costly[-1] :]
    assert len(set(of_known)) == 1


def test_log_z_is_taken_from_elsewhere(table):
    target = run_target(table)
    given = tuple(float(each) for each in po.exact(target).log_z)
    fit = po.fit(
        target,
        "a_star_po",
        objective_settings={"log_z": given},
        steps=100,
        num_samples=16,
        learning_rate=0.1,
    )
    assert fit.history[-1]["log_z"] == pytest.approx(np.mean(given))
    assert fit.history[-1]["log_z_error"] == 0.0
    assert float(po.exact(target).evaluate(fit.policy)["kl_to_target"].max()) < 0.01
    with pytest.raises(ConfigError, match=f"1 numbers, and the target {len(given)} prompts"):
        po.fit(target, "a_star_po", objective_settings={"log_z": given[:1]}, steps=1)
    with pytest.raises(ConfigError, match="log_z is given"):
        AStarPO(log_z=given, log_z_samples=8)


def test_evidence_that_no_draw_of_the_prior_has_is_named(table):
    never = po.Constraint(lambda completions, **_: [False] * len(completions))
    target = po.Target(table, never, table.prompts, 3)
    with pytest.raises(ObjectiveError, match="rules out all 8 of the prompt"):
        po.fit(target, "a_star_po", objective_settings={"log_z_samples": 8}, steps=1)


def relative(world: World, objective: REBEL, before_N: Tensor, at_N: Tensor) -> Tensor:
    """The gradient in log pi of every pair's loss."""
    rows = pairs_of(world)
    constants = objective.weigh(world.outcomes.select(rows), before_N[rows])
    moved_n1 = at_N[rows][:, None].clone().requires_grad_(True)
    objective.loss(moved_n1, constants).sum().backward()
    return moved_n1.grad


@pytest.mark.parametrize("eta", [1.0, 0.3])
@pytest.mark.parametrize("with_kl", [True, False])
def test_a_steps_regression_ends_at_its_formula_whatever_drew(eta, with_kl):
    world = World(("x",), 2)
    before_N = world.policy.log_prob(world.outcomes.completions).detach()
    log_e_N = world.exact.log_evidence[0]
    if with_kl:
        after_N = (1 - eta) * before_N + eta * (world.exact.log_prior[0] + log_e_N)
    else:
        after_N = before_N + eta * log_e_N
    gradient = relative(world, REBEL(eta=eta, kl=with_kl), before_N, after_N.log_softmax(0))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_at_the_target_each_pair_is_at_rest_and_without_the_kl_it_is_not():
    world = World(("x",), 2)
    star_N = world.exact.log_posterior[0]
    still = relative(world, REBEL(), star_N, star_N)
    torch.testing.assert_close(still, torch.zeros_like(still), rtol=0, atol=1e-12)
    assert float(relative(world, REBEL(kl=False), star_N, star_N).abs().max()) > 0.1
    assert REBEL().aims_at_target
    assert not REBEL(kl=False).aims_at_target


def exact_step(world: World, objective: REBEL, before_N: Tensor) -> Tensor:
    """The minimum of its expected loss, for pairs of the prior's draws."""
    rows, log_q_N = pairs_of(world), world.exact.log_prior[0]
    constants = objective.weigh(world.outcomes.select(rows), before_N[rows])
    weight_n = (log_q_N[:, None] + log_q_N).exp().flatten()

    def loss(at_N: Tensor) -> Tensor:
        return (weight_n * objective.loss(at_N[rows][:, None], constants)).sum()

    return minimum(loss, before_N)


def test_exact_steps_end_at_the_target_and_without_the_kl_at_the_best_outcome():
    world = World(("x",), 2)
    star_N = world.exact.log_posterior[0]
    policy_N = bare_N = torch.zeros_like(star_N).log_softmax(0)
    for _ in range(25):
        policy_N = exact_step(world, REBEL(eta=0.5), policy_N)
        bare_N = exact_step(world, REBEL(kl=False), bare_N)
    assert float((policy_N.exp() - star_N.exp()).abs().max()) < 1e-6
    assert int(bare_N.argmax()) == int(world.exact.log_evidence[0].argmax())
    assert float(bare_N.max().exp()) > 0.98


@pytest.mark.parametrize("eta", [1.0, 0.4])
@pytest.mark.parametrize("prompts", [("x",), ("x", "y")])
def test_rebels_first_update_is_on_policy_that_of_the_kl(eta, prompts):
    world = World(prompts, 2)
    expected = world.expected_gradient(REBEL(eta=eta))
    torch.testing.assert_close(expected, world.gradient_of(kl_to_target), rtol=0, atol=EXACT)


class WithoutEta(REBEL):
    def loss(self, token_log_prob_nL, constants):
        return super().loss(token_log_prob_nL, constants) * 4 / self.settings.eta


class WithoutThePrior(REBEL):
    def weigh(self, draws, log_prob_N):
        nothing_N = torch.zeros_like(draws.log_prior_N)
        return super().weigh(replace(draws, log_prior_N=nothing_N), log_prob_N)


class WithoutThePolicyThatItWas(REBEL):
    def weigh(self, draws, log_prob_N):
        return super().weigh(draws, torch.zeros_like(log_prob_N))


class WithTheHalfOfBeta(REBEL):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


@pytest.mark.parametrize(
    "mutant", [WithoutEta, WithoutThePrior, WithoutThePolicyThatItWas, WithTheHalfOfBeta]
)
def test_wrong_variants_of_rebel_are_caught(mutant):
    world = World(("x",), 2)
    wrong = world.expected_gradient(mutant(eta=0.5)) - world.gradient_of(kl_to_target)
    assert float(wrong.abs().max()) > WRONG


def test_an_odd_number_of_draws_is_refused(table):
    with pytest.raises(ObjectiveError, match="their number is odd"):
        po.fit(run_target(table), "rebel", steps=1, num_samples=3)
    with pytest.raises(ObjectiveError, match="their number is odd"):
        po.fit(run_target(table), "rebel", steps=1, num_samples=1)

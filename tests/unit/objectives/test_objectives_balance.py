"""VarGrad and trajectory balance: any draws, no ratios, and a log Z that is learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import OracleCase
from objective_cases import any_log_z
from torch import Tensor

import posteriori as po
from posteriori.core.draw import draw
from posteriori.errors import ObjectiveError
from posteriori.objectives.balance.tb import TB
from posteriori.objectives.balance.vargrad import VarGrad
from posteriori.objectives.policy_gradient.rloo import RLOO
from posteriori.testing.divergences import kl_to_target
from posteriori.testing.worlds import World

EXACT = 1e-8
CAUGHT = 1e4 * EXACT
WORLDS = {"two draws": (("x",), 2), "three draws": (("x",), 3), "two prompts": (("x", "y"), 2)}


def ready(objective: TB, world: World) -> TB:
    objective.prepare(world.target, lambda: world.policy, seed=0)
    any_log_z(objective, world)
    return objective


def per_prompt(world: World) -> list[tuple[Tensor, Tensor]]:
    """q and rho over the outcomes of each prompt, rho differentiable in the policy."""
    log_pi = world.policy.log_prob(world.outcomes.completions)
    rho_N = world.outcomes.log_prior_N + world.outcomes.log_evidence_N - log_pi
    q_N = world.outcomes.log_proposal_N.exp()
    return list(zip(q_N.split(world.sizes), rho_N.split(world.sizes), strict=True))


def gradient_of_half_the_variance(world: World) -> Tensor:
    """Of the mean over prompts of Var_q[rho] / 2, the mean of the draws' unbiased variance."""
    parts = [((q * rho.square()).sum() - (q * rho).sum() ** 2) / 2 for q, rho in per_prompt(world)]
    return torch.autograd.grad(torch.stack(parts).mean(), [world.policy.logits])[0]


def gradient_of_balance(world: World, log_z_P: Tensor) -> Tensor:
    """Of the mean over prompts of E_q[(rho - log Z_theta)^2] / 2."""
    pairs = zip(per_prompt(world), log_z_P, strict=True)
    parts = [(q * (rho - log_z).square()).sum() / 2 for (q, rho), log_z in pairs]
    return torch.autograd.grad(torch.stack(parts).mean(), [world.policy.logits])[0]


@pytest.mark.parametrize("size", WORLDS)
def test_vargrad_descends_half_the_variance_under_whatever_drew(size):
    world = World(*WORLDS[size], elsewhere=True)
    expected = gradient_of_half_the_variance(world)
    assert float((expected - world.gradient_of(kl_to_target)).abs().max()) > 0.01, "no KL"
    torch.testing.assert_close(world.expected_gradient(VarGrad()), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("size", WORLDS)
def test_tb_descends_its_square_under_whatever_drew(size):
    world = World(*WORLDS[size], elsewhere=True)
    objective = ready(TB(), world)
    expected = gradient_of_balance(world, objective.log_z_P)
    torch.testing.assert_close(world.expected_gradient(objective), expected, rtol=0, atol=EXACT)


def test_on_policy_vargrad_is_rloo_draw_for_draw():
    world = World(("x", "y"), 40)
    draws = draw(world.target, world.policy, 40, torch.Generator().manual_seed(0))
    log_prob_NL = world.policy.token_log_prob(draws.completions)

    def gradient(objective):
        constants = objective.weigh(draws, draws.log_proposal_N)
        loss = objective.loss(log_prob_NL, constants).mean()
        return torch.autograd.grad(loss, [world.policy.logits], retain_graph=True)[0]

    torch.testing.assert_close(gradient(VarGrad()), gradient(RLOO()), rtol=0, atol=1e-12)


def test_vargrads_loss_is_half_the_unbiased_variance():
    world = World(("x", "y"), 5)
    draws = draw(world.target, world.policy, 5, torch.Generator().manual_seed(0))
    log_prob_NL = world.policy.token_log_prob(draws.completions).detach()
    objective = VarGrad()
    loss = objective.loss(log_prob_NL, objective.weigh(draws, log_prob_NL.sum(-1))).mean()
    rho_N = draws.log_prior_N + draws.log_evidence_N - log_prob_NL.sum(-1)
    expected = rho_N.view(2, 5).var(-1, unbiased=True).mean() / 2
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_at_the_target_neither_has_any_noise_whatever_drew():
    """rho = log Z for each of the outcomes, so no draw says anything."""
    world = World(("x",), 2, elsewhere=True)
    log_star_N = world.exact.log_posterior[0]
    tb = ready(TB(), world)
    tb.log_z_P = torch.as_tensor(world.exact.log_z, dtype=torch.float64)
    for objective in (VarGrad(), tb):
        constants = objective.weigh(world.outcomes, log_star_N)
        log_prob_n1 = log_star_N[:, None].clone().requires_grad_(True)
        loss_n = objective.loss(log_prob_n1, constants)
        (gradient,) = torch.autograd.grad(loss_n.sum(), [log_prob_n1])
        for each in (loss_n, gradient):
            torch.testing.assert_close(each, torch.zeros_like(each), rtol=0, atol=1e-12)


def test_log_z_takes_gradient_steps_on_the_same_loss():
    world = World(("x", "y"), 3)
    objective = ready(TB(log_z_learning_rate=0.3), world)
    draws = draw(world.target, world.policy, 3, torch.Generator().manual_seed(0))
    constants = dict(objective.weigh(draws, draws.log_proposal_N))
    before_P = objective.log_z_P.clone()
    log_z_P = before_P.clone().requires_grad_(True)
    constants["log_z_N"] = log_z_P[draws.completions.prompt_index_N]
    loss_N = objective.loss(draws.log_proposal_N[:, None], constants)
    (gradient_P,) = torch.autograd.grad(loss_N.view(2, 3).mean(-1).sum(), [log_z_P])
    figures = objective.observe(draws, draws.log_proposal_N)
    torch.testing.assert_close(objective.log_z_P, before_P - 0.3 * gradient_P, rtol=0, atol=1e-12)
    assert figures["log_z"] == pytest.approx(float(objective.log_z_P.mean()))


def test_a_prompts_first_draws_set_its_log_z():
    world = World(("x", "y"), 3)
    objective = TB()
    objective.prepare(world.target, lambda: world.policy, seed=0)
    draws = draw(world.target, world.policy, 3, torch.Generator().manual_seed(0), ["y"])
    rho_N = draws.log_prior_N + draws.log_evidence_N - draws.log_proposal_N
    figures = objective.observe(draws, draws.log_proposal_N)
    assert objective.log_z_P[0].isnan(), "nobody has asked about x"
    assert float(objective.log_z_P[1]) == pytest.approx(float(rho_N.mean()))
    assert figures["log_z"] == pytest.approx(float(rho_N.mean()))


def test_the_first_step_of_tb_is_scaled_and_nothing_else():
    world = World(("x",), 3)
    objective = TB()
    objective.prepare(world.target, lambda: world.policy, seed=0)
    expected = world.gradient_of(kl_to_target) * 2 / 3
    torch.testing.assert_close(world.expected_gradient(objective), expected, rtol=0, atol=EXACT)


@pytest.mark.long
def test_log_z_converges_to_the_oracles():
    """A fixed run, seed 0, which ends within 0.02 nats on every prompt."""
    case = OracleCase("case_1")
    objective = TB()
    po.fit(case.target(0.5), objective, steps=200, num_samples=16, learning_rate=3e-3, replay=4)
    assert np.abs(objective.log_z_P.numpy() - po.exact(case.target(0.5)).log_z).max() < 0.02


def test_a_single_draw_is_refused_by_vargrad_and_taken_by_tb(table):
    target = po.Target(table, po.Reward(_length, beta=1.0), table.prompts, 3)
    with pytest.raises(ObjectiveError, match="there is one"):
        po.fit(target, "vargrad", steps=1, num_samples=1)
    fitted = po.fit(target, "tb", steps=3, num_samples=1, learning_rate=0.1)
    assert bool((fitted.policy.logits != table.logits).any())


def _length(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def test_more_epochs_declare_no_divergence():
    for kind in (VarGrad, TB):
        assert kind().divergence == "KL(policy, target)"
        assert kind(epochs=2).divergence is None
        assert kind(proposal="prior").divergence is None
        assert kind(epochs=3).epochs == 3


class WithRatio(VarGrad):
    def weigh(self, draws, log_prob_N):
        constants = dict(super().weigh(draws, log_prob_N))
        ratio_N = (log_prob_N - draws.log_proposal_N).exp()
        return {**constants, "unbiased_N": constants["unbiased_N"] * ratio_N}


class WithTheBiasedVariance(VarGrad):
    def weigh(self, draws, log_prob_N):
        constants = dict(super().weigh(draws, log_prob_N))
        return {**constants, "unbiased_N": torch.ones_like(constants["unbiased_N"])}


class WithoutTheHalf(VarGrad):
    def loss(self, token_log_prob_nL, constants):
        return 2 * super().loss(token_log_prob_nL, constants)


class WithTheProposalInTheMean(VarGrad):
    def weigh(self, draws, log_prob_N):
        return super().weigh(draws, draws.log_proposal_N)


class OverAllPrompts(VarGrad):
    def weigh(self, draws, log_prob_N):
        index_N = torch.zeros_like(draws.completions.prompt_index_N)
        one = replace(draws.completions, prompt_index_N=index_N)
        return super().weigh(replace(draws, completions=one), log_prob_N)


class WithoutPrior(VarGrad):
    def weigh(self, draws, log_prob_N):
        without = replace(draws, log_prior_N=torch.zeros_like(draws.log_prior_N))
        return super().weigh(without, log_prob_N)


VARGRADS = [
    WithRatio,
    WithTheBiasedVariance,
    WithoutTheHalf,
    WithTheProposalInTheMean,
    OverAllPrompts,
    WithoutPrior,
]


@pytest.mark.parametrize("mutant", VARGRADS)
def test_wrong_variances_are_caught(mutant):
    world = World(("x", "y"), 2, elsewhere=True)
    wrong = world.expected_gradient(mutant()) - gradient_of_half_the_variance(world)
    assert float(wrong.abs().max()) > CAUGHT


class PapersFactor(TB):
    def loss(self, token_log_prob_nL, constants):
        return 2 * super().loss(token_log_prob_nL, constants)


class WithItsOwnDrawsInLogZ(TB):
    def weigh(self, draws, log_prob_N):
        constants = dict(super().weigh(draws, log_prob_N))
        rho_N = constants["log_target_N"] - log_prob_N
        return {**constants, "log_z_N": rho_N.mean().expand_as(rho_N)}


class WithHalfOfBeta(TB):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


class WithRatioToo(TB):
    def weigh(self, draws, log_prob_N):
        ratio_N = (log_prob_N - draws.log_proposal_N).exp()
        return {**super().weigh(draws, log_prob_N), "ratio_N": ratio_N}

    def loss(self, token_log_prob_nL, constants):
        return constants["ratio_N"] * super().loss(token_log_prob_nL, constants)


@pytest.mark.parametrize("mutant", [PapersFactor, WithItsOwnDrawsInLogZ, WithHalfOfBeta])
def test_wrong_balances_are_caught(mutant):
    world = World(("x",), 2)
    objective = ready(mutant(), world)
    wrong = world.expected_gradient(objective) - world.gradient_of(kl_to_target)
    assert float(wrong.abs().max()) > CAUGHT


def test_ratios_in_the_balance_are_caught():
    world = World(("x",), 2, elsewhere=True)
    objective = ready(WithRatioToo(), world)
    wrong = world.expected_gradient(objective) - gradient_of_balance(world, objective.log_z_P)
    assert float(wrong.abs().max()) > CAUGHT

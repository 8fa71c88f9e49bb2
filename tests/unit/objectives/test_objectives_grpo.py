"""Group-relative policy optimisation: what each setting does to where it goes, by enumeration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixed_points import as_table, fixed_point, scaled, scaled_in_a_group_of, unscaled
from helpers import OracleCase

import posteriori as po
from posteriori.errors import ConfigError, ObjectiveError
from posteriori.objectives.policy_gradient.clipped import RatioFigures, clipped_surrogate
from posteriori.objectives.policy_gradient.grpo import GRPO, standardised
from posteriori.testing.divergences import kl_to_target
from posteriori.testing.worlds import World

EXACT = 1e-8


def at(world: World, policy: po.TabularLM) -> World:
    """The world with another policy, which draws."""
    world.policy.logits.data.copy_(policy.logits.data)
    with torch.no_grad():
        drawn_NL = world.policy.token_log_prob(world.outcomes.completions)
    world.outcomes = replace(
        world.outcomes,
        completions=replace(world.outcomes.completions, token_log_prob_NL=drawn_NL),
        log_proposal_N=drawn_NL.sum(-1),
    )
    return world


def posterior_table(world: World) -> po.TabularLM:
    """p* as a table: conditionals of its own joint."""
    prior = world.target.prior
    table = po.TabularLM(prior.logits.clone(), prior.prompts, prior.vocabulary)
    outcomes, p_N = world.exact.outcomes[0], world.exact.log_posterior[0].exp()
    total: dict[tuple[int, ...], float] = {}
    for y, p in zip(outcomes.completion_ids, p_N.tolist(), strict=True):
        for t in range(len(y) + 1):
            total[tuple(y[:t])] = total.get(tuple(y[:t]), 0.0) + p
    words = len(prior.vocabulary)
    for prefix, number in {(): 0, (1,): 1, (2,): 2}.items():
        shares = [total[(*prefix, token)] / total[prefix] for token in range(words)]
        table.logits.data[0, number] = torch.tensor(shares, dtype=torch.float64).log()
    assert float(world.exact.evaluate(table)["kl_to_target"][0]) < 1e-12
    return table


class WithoutPrior(GRPO):
    def weigh(self, draws, log_prob_N):
        nothing_NL = torch.zeros_like(draws.token_log_prior_NL)
        return super().weigh(replace(draws, token_log_prior_NL=nothing_NL), log_prob_N)


class WithHalfOfBeta(GRPO):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


class WithItsOwnDrawInTheBaseline(GRPO):
    def weigh(self, draws, log_prob_N):
        constants = dict(super().weigh(draws, log_prob_N))
        constants["advantage_N1"] = constants["advantage_N1"] / 2  # (n - 1) / n at n = 2
        return constants


class WithoutTheEnd(GRPO):
    def loss(self, token_log_prob_nL, constants):
        lengths_n1 = constants["mask_NL"].sum(-1, keepdim=True)
        before_nL = torch.arange(token_log_prob_nL.shape[1]) < lengths_n1 - 1
        return super().loss(token_log_prob_nL, {**constants, "mask_NL": before_nL})


@pytest.mark.parametrize(
    "mutant", [WithoutPrior, WithHalfOfBeta, WithItsOwnDrawInTheBaseline, WithoutTheEnd]
)
def test_wrong_variants_are_caught(mutant):
    world = World(("x",), 2)
    wrong = world.expected_gradient(mutant()) - world.gradient_of(kl_to_target)
    assert float(wrong.abs().max()) > 1e4 * EXACT


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": True},
        {"aggregation": "token_mean"},
        {"kl": "k1", "kl_in": "loss"},
        {"kl": "k2", "kl_in": "loss"},
        {"kl": "k3", "kl_in": "loss"},
        {"kl": "k1", "kl_in": "loss", "kl_ratio": True},
        {"kl": "k2", "kl_in": "loss", "kl_ratio": True},
        {"kl": "k3", "kl_in": "loss", "kl_ratio": True},
        {"kl": "k2"},
        {"kl": "k3"},
    ],
    ids=str,
)
def test_only_the_default_has_the_gradient_of_the_divergence(settings):
    objective, world = GRPO(**settings), World(("x",), 2)
    assert objective.divergence is None
    wrong = world.expected_gradient(objective) - world.gradient_of(kl_to_target)
    assert float(wrong.abs().max()) > 1e-3


def test_the_divergence_is_declared_where_it_is_descended_and_nowhere_else():
    assert GRPO().divergence == "KL(policy, target)"
    assert GRPO(clip=None).divergence == "KL(policy, target)"
    assert GRPO(epochs=2).divergence is None
    assert GRPO(epochs=2).fixed_point == "the target"
    assert GRPO(kl="k3", kl_in="loss").fixed_point != "the target"


@pytest.mark.parametrize("settings", [{}, {"aggregation": "token_mean"}], ids=str)
def test_with_the_kl_in_the_reward_the_posterior_stays(settings):
    world = World(("x",), 2)
    at(world, posterior_table(world))
    gradient = world.expected_gradient(GRPO(**settings))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=EXACT)


def test_near_the_posterior_a_scaled_gradient_points_to_it_and_does_not_get_smaller():
    """With the KL in the reward: p* is where it leads, at a length that knows no distance."""
    sizes = []
    for step in (1e-2, 1e-5):
        world = World(("x",), 2)
        star = posterior_table(world)
        noise = torch.randn(star.logits.shape, generator=torch.Generator().manual_seed(0))
        star.logits.data += step * noise
        at(world, star)
        gradient = world.expected_gradient(GRPO(scale=True))
        assert float((gradient * world.gradient_of(kl_to_target)).sum()) > 0
        sizes.append(float(gradient.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


@pytest.mark.parametrize("kind", ["k2", "k3"])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("scale", [False, True])
def test_the_expected_gradient_vanishes_at_the_fixed_point_that_was_solved_for(kind, size, scale):
    """And not at the posterior: with the KL in the loss p* is not where it ends."""
    objective = GRPO(kl=kind, kl_in="loss", scale=scale)
    world = World(("x",), size)
    advantage = scaled_in_a_group_of(size) if scale else unscaled
    ends = fixed_point(kind, world.exact, world.target.prior, advantage)
    gradient = world.expected_gradient(objective) if at(world, ends) else None
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=EXACT)
    gradient = world.expected_gradient(objective) if at(world, posterior_table(world)) else None
    assert float(gradient.abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["k1", "k3"])
@pytest.mark.parametrize("scale", [False, True])
def test_an_estimate_by_the_ratio_ends_where_k2_does(kind, scale):
    """TRL's default from 1.16 on: k3 in the loss, times the ratio to the policy that drew."""
    objective = GRPO(kl=kind, kl_in="loss", kl_ratio=True, scale=scale)
    assert objective.divergence is None
    world = World(("x",), 2)
    advantage = scaled_in_a_group_of(2) if scale else unscaled
    ends = fixed_point("k2", world.exact, world.target.prior, advantage)
    gradient = world.expected_gradient(objective) if at(world, ends) else None
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=EXACT)
    without = world.expected_gradient(GRPO(kl=kind, kl_in="loss", scale=scale))
    assert float(without.abs().max()) > 1e-3, "the mutant without the ratio"
    gradient = world.expected_gradient(objective) if at(world, posterior_table(world)) else None
    assert float(gradient.abs().max()) > 1e-3


def test_by_the_ratio_it_is_the_formula_of_trl():
    """Off the policy that drew: -min(r A, clip(r) A) + r (exp(x) - x - 1), token by token."""
    world = World(("x",), 2, elsewhere=True)
    draws = world.outcomes.select(torch.arange(7))
    log_pi_NL = world.policy.token_log_prob(draws.completions).detach()
    objective = GRPO(kl="k3", kl_in="loss", kl_ratio=True)
    constants = objective.weigh(draws, draws.log_proposal_N)
    plain = GRPO(kl="k3", kl_in="loss")
    ratio_NL = (log_pi_NL - draws.completions.token_log_prob_NL).exp()
    x_NL = draws.token_log_prior_NL - log_pi_NL
    k3_NL = x_NL.exp() - x_NL - 1
    added_N = objective.loss(log_pi_NL, constants) - plain.loss(log_pi_NL, constants)
    expected_N = ((ratio_NL - 1) * k3_NL * draws.completions.mask_NL).sum(-1)
    torch.testing.assert_close(added_N, expected_N, rtol=0, atol=1e-12)


ENDS = {
    "k2": {"case_1": (0.0465, 0.0105, 0.0814), "case_2": (0.0334, 0.0451, 0.0088)},
    "k3": {"case_1": (0.3587, 0.7565, 0.3093), "case_2": (0.3098, 0.2996, 0.0708)},
}
SCALED_ENDS = {
    "k2": {"case_1": (0.2673, 0.1781, 0.2646), "case_2": (0.5924, 0.2950, 0.5821)},
    "k3": {"case_1": (0.1069, 0.0878, 0.1617), "case_2": (0.5091, 0.1219, 0.4597)},
}


@pytest.mark.parametrize("name", ["case_1", "case_2"])
@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_how_far_from_the_posterior_it_ends_on_the_oracle(kind, name):
    """KL(pi, p*) at the fixed point, beta 0.5: the figures of docs/kl-estimators.md."""
    exact = po.exact(OracleCase(name).target(0.5))
    table = as_table(exact.target.prior, exact)
    for advantage, ends in ((unscaled, ENDS), (scaled, SCALED_ENDS)):
        policy = fixed_point(kind, exact, table, advantage)
        found = exact.evaluate(policy)["kl_to_target"]
        np.testing.assert_allclose(found, ends[kind][name], atol=1e-4)


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_scaled_with_the_kl_in_the_loss_beta_makes_no_difference(kind):
    """A = log e / std(log e) is the same for r / beta whatever beta is."""
    policies = []
    for beta in (2.0, 0.5):
        exact = po.exact(OracleCase("case_1").target(beta))
        table = as_table(exact.target.prior, exact)
        policies.append(fixed_point(kind, exact, table, scaled).logits)
    torch.testing.assert_close(policies[0], policies[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [False, True])
def test_a_run_ends_where_the_fixed_point_says_and_not_at_the_posterior(scale):
    """Groups of 200, so that the limit of a large group is near; the seed is fixed."""
    world = World(("x",), 2)
    target = world.target
    ends = fixed_point("k3", world.exact, target.prior, scaled if scale else unscaled)
    settings = {"kl": "k3", "kl_in": "loss", "scale": scale}
    run = {"steps": 300, "num_samples": 200, "learning_rate": 0.05}
    fitted = po.fit(target, "grpo", objective_settings=settings, **run)
    log_pi, log_end = (world.exact.log_prob(lm)[0] for lm in (fitted.policy, ends))
    apart = float((log_pi.exp() * (log_pi - log_end)).sum())
    assert apart < 0.1 * world.exact.evaluate(fitted.policy)["kl_to_target"][0]


def test_the_loss_of_a_later_update_has_the_token_ratios_and_the_clip():
    world = World(("x",), 2, elsewhere=True)
    rows = torch.arange(7)
    draws = world.outcomes.select(rows)
    truth_NL = world.policy.token_log_prob(draws.completions)
    objective = GRPO(clip=0.1)
    constants = objective.weigh(draws, draws.log_proposal_N)
    (gradient,) = torch.autograd.grad(
        objective.loss(truth_NL, constants).sum(), [truth_NL], retain_graph=True
    )
    ratio_NL = (truth_NL - draws.completions.token_log_prob_NL).detach().exp()
    advantage_N1 = constants["advantage_N1"]
    cut_NL = (advantage_N1 > 0) & (ratio_NL > 1.1) | (advantage_N1 < 0) & (ratio_NL < 0.9)
    mask_NL = draws.completions.mask_NL
    assert bool((cut_NL & mask_NL).any()), "some are cut"
    assert bool((~cut_NL & mask_NL).any()), "and some are not"
    expected = -(ratio_NL * advantage_N1).masked_fill(cut_NL | ~mask_NL, 0.0)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    figures = objective.observe(draws, truth_NL.detach().sum(-1))
    assert figures["clip_fraction"] == pytest.approx(float(cut_NL[mask_NL].double().mean()))
    assert figures["ratio_deviation"] == pytest.approx(float((ratio_NL[mask_NL] - 1).abs().mean()))


def test_the_surrogate_is_the_papers():
    ratio = torch.tensor([[0.5, 0.9, 1.0, 1.1, 1.5]], dtype=torch.float64)
    gains = clipped_surrogate(ratio.log(), torch.ones(1, 1), 0.2)
    losses = clipped_surrogate(ratio.log(), -torch.ones(1, 1), 0.2)
    free = clipped_surrogate(ratio.log(), torch.ones(1, 1), None)
    torch.testing.assert_close(gains, torch.tensor([[0.5, 0.9, 1, 1.1, 1.2]]).double())
    torch.testing.assert_close(losses, -torch.tensor([[0.8, 0.9, 1, 1.1, 1.5]]).double())
    torch.testing.assert_close(free, ratio)


def test_nothing_is_cut_without_a_clip():
    figures = RatioFigures(None)
    figures.add(torch.full((1, 2), 3.0), torch.ones(1, 1), torch.ones(1, 2, dtype=torch.bool))
    assert figures.read()["clip_fraction"] == 0


def test_a_group_without_spread_has_no_advantage():
    """0.1 three times has a mean that is not 0.1; what is left over must not become +-1."""
    values = torch.tensor([0.1, 0.1, 0.1, 1.0, 3.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 1, 1])
    expected = torch.tensor([0.0, 0, 0, -1, 1], dtype=torch.float64)
    torch.testing.assert_close(standardised(values, group), expected, rtol=0, atol=1e-12)


def test_one_draw_a_prompt_is_refused():
    world = World(("x",), 1)
    with pytest.raises(ObjectiveError, match="there is one"):
        GRPO().weigh(world.outcomes.select([0]), world.outcomes.log_proposal_N[:1])


@pytest.mark.parametrize(
    "wrong", [{"kl_ratio": True}, {"kl": "k4"}, {"clip": 0.0}, {"epochs": 0}, {"beta": 0.1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        GRPO(**wrong)

"""PPO: an unbiased first update whatever the critic says, and a critic that is part of the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import tiny_lm

import posteriori as po
from posteriori.objectives.policy_gradient.critic import Critic
from posteriori.objectives.policy_gradient.gae import advantages
from posteriori.objectives.policy_gradient.ppo import PPO
from posteriori.testing.divergences import kl_to_target
from posteriori.testing.worlds import World

EXACT = 1e-8


def ready(objective: PPO, world: World, critic: str = "wild") -> PPO:
    """Prepared, with a critic that says 0 everywhere, or one that says wild things."""
    objective.prepare(world.target, lambda: world.policy, seed=0)
    if critic == "wild":
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in objective.critic.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return objective


@pytest.mark.parametrize("critic", ["silent", "wild"])
@pytest.mark.parametrize("world", [(("x",), 2), (("x", "y"), 1)], ids=str)
def test_the_first_updates_gradient_is_exact_whatever_the_critic_says(world, critic):
    world = World(*world)
    gradient = world.expected_gradient(ready(PPO(), world, critic))
    torch.testing.assert_close(gradient, world.gradient_of(kl_to_target), rtol=0, atol=EXACT)


def test_the_wild_critic_is_heard():
    """Its answers differ from prefix to prefix, so the test above shows something."""
    world = World(("x",), 2)
    objective = ready(PPO(), world)
    constants = objective.weigh(world.outcomes, world.outcomes.log_proposal_N)
    rho_N = world.outcomes.log_weight
    baseline_NL = (rho_N[:, None] - constants["advantage_NL"])[constants["mask_NL"]]
    assert float(baseline_NL.std()) > 0.1


def test_with_a_smaller_lambda_a_wrong_critic_biases():
    world = World(("x",), 2)
    gradient = world.expected_gradient(ready(PPO(gae_lambda=0.5), world))
    assert float((gradient - world.gradient_of(kl_to_target)).abs().max()) > 1e-3


class WithoutPrior(PPO):
    def weigh(self, draws, log_prob_N):
        return super().weigh(
            replace(draws, log_prior_N=torch.zeros_like(draws.log_prior_N)), log_prob_N
        )


class WithHalfOfBeta(PPO):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


class WithACriticThatHasSeenTheToken(PPO):
    """The value of the prefix after a token serves as that token's baseline."""

    def weigh(self, draws, log_prob_N):
        constants = dict(super().weigh(draws, log_prob_N))
        rho_N1 = draws.log_weight[:, None]
        constants["advantage_NL"] = (rho_N1 - self.after(draws)) * constants["mask_NL"]
        return constants

    def after(self, draws):
        return self.critic(self._prior[0].features(draws.completions)).detach().roll(-1, dims=1)


class WithTheRewardOfTheTokensBeforeInTheValue(PPO):
    """V_t for U_t in A_t = rho - U_t: a baseline that does not know what is already in is allowed,
    but not one that leaves the last token's reward out of the return."""

    def weigh(self, draws, log_prob_N):
        constants = dict(super().weigh(draws, log_prob_N))
        last_N1 = (draws.completions.lengths_N - 1)[:, None]
        token_NL = draws.token_log_prior_NL - draws.completions.token_log_prob_NL
        missing_N1 = token_NL.gather(1, last_N1)
        constants["advantage_NL"] = constants["advantage_NL"] - missing_N1
        return constants


MUTANTS = [
    WithoutPrior,
    WithHalfOfBeta,
    WithACriticThatHasSeenTheToken,
    WithTheRewardOfTheTokensBeforeInTheValue,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_variants_are_caught(mutant):
    world = World(("x",), 2)
    wrong = world.expected_gradient(ready(mutant(), world)) - world.gradient_of(kl_to_target)
    assert float(wrong.abs().max()) > 1e4 * EXACT


@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 0.95, 1.0])
def test_the_advantages_are_the_papers_on_per_token_rewards(gae_lambda):
    """Schulman et al.'s sum, term by term, with V_t = U_t - the rewards before t."""
    generator = torch.Generator().manual_seed(0)
    lengths_N = torch.tensor([1, 2, 4])
    mask_NL = torch.arange(4) < lengths_N[:, None]
    reward_NL = torch.randn(3, 4, generator=generator, dtype=torch.float64) * mask_NL
    u_NL = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    found_NL = advantages(u_NL, reward_NL.sum(-1), lengths_N, gae_lambda)
    for row, length in enumerate(lengths_N.tolist()):
        r, u = reward_NL[row].tolist(), u_NL[row].tolist()
        v = [u[t] - sum(r[:t]) for t in range(length)] + [0.0]
        delta = [r[t] + v[t + 1] - v[t] for t in range(length)]
        for t in range(4):
            wanted = sum(gae_lambda ** (k - t) * delta[k] for k in range(t, length))
            assert float(found_NL[row, t]) == pytest.approx(wanted, abs=1e-12)


def test_at_the_posterior_an_exact_critic_leaves_no_advantage():
    """rho = log Z for every outcome, so U = log Z, one number, and every A_t is 0."""
    world = World(("x",), 2)
    log_star_N = world.exact.log_posterior[0]
    objective = ready(PPO(gae_lambda=0.9), world, "silent")
    objective.critic.set_unit(torch.from_numpy(world.exact.log_z))
    constants = objective.weigh(replace(world.outcomes, log_proposal_N=log_star_N), log_star_N)
    advantage_NL = constants["advantage_NL"]
    torch.testing.assert_close(advantage_NL, torch.zeros_like(advantage_NL), rtol=0, atol=1e-12)


def test_the_critic_learns_log_z():
    """Before the first token it predicts the ELBO of each prompt, which ends as log Z(c)."""
    world = World(("x", "y"), 2)
    objective = PPO()
    po.fit(world.target, objective, steps=300, num_samples=50, learning_rate=0.05)
    one = world.policy.completions(["x", "y"], [[0], [0]], 1)
    said = objective.critic(world.target.prior.features(one))[:, 0].detach().numpy()
    log_z = world.exact.log_z
    assert abs(said - log_z).max() < 0.1 * abs(log_z[0] - log_z[1])


def test_the_divergence_is_declared_only_where_every_update_descends_it():
    assert PPO(epochs=1).divergence == "KL(policy, target)"
    assert PPO().divergence is None
    assert PPO().fixed_point == "the target"
    assert PPO(epochs=1, gae_lambda=0.9).divergence is None
    assert "critic" in PPO(gae_lambda=0.9).fixed_point


def test_the_critic_comes_from_the_seed_and_from_nothing_else():
    like = torch.zeros(1, 1, 5)
    first, same, other = (Critic(5, 4, seed, like).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in ("layers.0.weight", "unit"))
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_the_critics_unit_is_that_of_the_first_returns():
    critic = Critic(5, 4, 0, torch.zeros(1, 1, 5))
    features_NLD = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert bool((critic(features_NLD) == 0).all())
    critic.set_unit(torch.tensor([-30.0, -10.0], dtype=torch.float64))
    assert (float(critic.centre), float(critic.unit)) == (-20.0, 10.0)
    assert bool((critic(features_NLD) == -20.0).all())
    critic.set_unit(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert float(critic.centre) == -20.0, "it is set once"


def test_equal_returns_leave_the_unit_alone():
    critic = Critic(5, 4, 0, torch.zeros(1, 1, 5))
    critic.set_unit(torch.full((4,), 3.0, dtype=torch.float64))
    assert (float(critic.centre), float(critic.unit)) == (3.0, 1.0)


def test_the_prior_is_no_part_of_the_objective_and_the_critic_is():
    world = World(("x",), 2)
    objective = ready(PPO(), world)
    assert {name.split(".")[0] for name in objective.state_dict()} == {"critic"}
    (group,) = objective.parameter_groups()
    assert group["lr"] == objective.settings.value_learning_rate
    assert {id(p) for p in group["params"]} == {id(p) for p in objective.parameters()}


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_run_tells_how_the_critic_does_and_counts_its_pass(policy):
    target = po.Target(
        tiny_lm(), po.Reward(lambda completion_ids, **kw: [len(y) for y in completion_ids], 1.0),
        ["a", "b c"], 3,
    )  # fmt: skip
    run = {"steps": 15, "num_samples": 8, "learning_rate": 1e-2, "policy": policy}
    fitted = po.fit(target, "ppo", objective_settings={"epochs": 3}, **run)
    first, last = fitted.history[0], fitted.history[-1]
    assert last["value_loss"] < first["value_loss"]
    assert last["explained_variance"] <= 1
    assert 0 <= first["clip_fraction"] <= 1
    assert first["ratio_deviation"] > 0, "later updates have moved away from where it was drawn"
    alone = po.fit(target, "grpo", objective_settings={"epochs": 3}, **run).history[0]
    one_pass = (first["lm_tokens"] - alone["lm_tokens"]) * 6
    assert one_pass == first["lm_tokens"], "prior, policy, critic's features, and three updates"

"""The expected gradient of every objective is the gradient of what it says it minimises.

No randomness: on a table of two words and two steps every tuple of draws is written down, weighed
by its probability, and the loop's own loss (the mean over the draws) is summed over all of them.
`pytest -rP -k "gradient or caught"` prints how far off each one is, and each wrong variant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from objective_cases import CASES, ObjectiveCase

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.registry import names
from posteriori.core.settings.training import FitConfig
from posteriori.objectives.base import Objective
from posteriori.objectives.policy_gradient.rl import RL
from posteriori.objectives.policy_gradient.rloo import RLOO
from posteriori.testing import check_gradient
from posteriori.testing.divergences import kl_to_target, minus_log_evidence
from posteriori.testing.worlds import World
from posteriori.train.fit import Trainer

WORLDS = {"two draws": (("x",), 2), "three draws": (("x",), 3), "two prompts": (("x", "y"), 2)}
EXACT = 1e-8
DECLARED = [case for case in CASES if case.divergence]


def ready(case: ObjectiveCase, world: World) -> Objective:
    """The objective, prepared for that world and in the state that the test assumes."""
    objective = case.make()
    objective.prepare(world.target, lambda: world.policy, seed=0)
    if case.arrange:
        case.arrange(objective, world)
    return objective


def test_every_objective_is_among_the_cases():
    assert {case.name for case in CASES} == names("objective").keys()
    for case in CASES:
        objective = case.make()
        assert objective.name == case.name
        if objective.divergence is not None:
            assert case.divergence is not None, "what is declared is shown"


def off_by(gradient: torch.Tensor, expected: torch.Tensor) -> float:
    distance = float((gradient - expected).abs().max())
    print(f"off by {distance:.1e}")
    return distance


IN_WORLDS = [
    pytest.param(case, world, id=f"{case}-{world}")
    for case in DECLARED
    for world, (_, num_samples) in WORLDS.items()
    if num_samples % case.make().rows_together == 0
]


@pytest.mark.parametrize(("case", "world"), IN_WORLDS)
def test_the_expected_gradient_is_that_of_the_divergence(case, world):
    prompts, num_samples = WORLDS[world]
    check_gradient(
        case.make,
        case.divergence,
        prompts=prompts,
        num_samples=num_samples,
        arrange=case.arrange,
    )


@pytest.mark.parametrize("case", [case for case in DECLARED if case.any_proposal], ids=str)
def test_draws_from_elsewhere_give_the_same_gradient(case):
    check_gradient(case.make, case.divergence, elsewhere=True, arrange=case.arrange)


def test_reinforce_borrows_its_baseline_from_other_prompts():
    """One draw a prompt is enough for it, and the gradient is still unbiased."""
    world = World(("x", "y"), 1)
    case = next(case for case in CASES if case.name == "reinforce")
    gradient = world.expected_gradient(ready(case, world))
    torch.testing.assert_close(gradient, world.gradient_of(kl_to_target), rtol=0, atol=EXACT)


class WithoutPrior(RLOO):
    def weigh(self, draws, log_prob_N):
        without = replace(draws, log_prior_N=torch.zeros_like(draws.log_prior_N))
        return super().weigh(without, log_prob_N)


class WithHalfOfBeta(RLOO):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


class WithItsOwnDrawInTheBaseline(RLOO):
    def advantage(self, draws, log_prob_N):
        rho_N = draws.log_prior_N + draws.log_evidence_N - log_prob_N
        return rho_N - rho_N.mean()


class WithoutBaselineSign(RLOO):
    def advantage(self, draws, log_prob_N):
        return -super().advantage(draws, log_prob_N)


class RewardWithItsOwnDrawInTheBaseline(RL):
    def advantage(self, draws, log_prob_N):
        return draws.log_evidence_N - draws.log_evidence_N.mean()


class WithoutRatio(RLOO):
    def weigh(self, draws, log_prob_N):
        return {"weight_N": self.advantage(draws, log_prob_N)}


class WithTheProposalInRho(RLOO):
    def advantage(self, draws, log_prob_N):
        return super().advantage(draws, draws.log_proposal_N)


ON_POLICY: list[tuple[type[Objective], Callable]] = [
    (WithoutPrior, kl_to_target),
    (WithHalfOfBeta, kl_to_target),
    (WithItsOwnDrawInTheBaseline, kl_to_target),
    (WithoutBaselineSign, kl_to_target),
    (RewardWithItsOwnDrawInTheBaseline, minus_log_evidence),
]
ELSEWHERE: list[tuple[type[Objective], Callable]] = [
    (WithoutRatio, kl_to_target),
    (WithTheProposalInRho, kl_to_target),
]


@pytest.mark.parametrize(("mutant", "divergence"), ON_POLICY)
def test_wrong_variants_are_caught(mutant, divergence):
    world = World(("x",), 2)
    gradient = world.expected_gradient(mutant())
    assert off_by(gradient, world.gradient_of(divergence)) > 1e4 * EXACT


@pytest.mark.parametrize(("mutant", "divergence"), ELSEWHERE)
def test_wrong_variants_are_caught_on_draws_from_elsewhere(mutant, divergence):
    world = World(("x",), 2, elsewhere=True)
    gradient = world.expected_gradient(mutant())
    assert off_by(gradient, world.gradient_of(divergence)) > 1e4 * EXACT


@pytest.mark.parametrize("case", DECLARED, ids=str)
def test_leaving_out_the_end_of_sequence_is_caught(case):
    world = World(("x",), 2)
    completions = world.outcomes.completions
    token_log_prob_NL = world.policy.token_log_prob(completions)
    without_eos = token_log_prob_NL.masked_fill(completions.tokens_NL == 0, 0.0)
    gradient = world.expected_gradient(ready(case, world), without_eos)
    assert off_by(gradient, world.gradient_of(case.divergence)) > 1e4 * EXACT


def test_at_the_posterior_every_draw_has_the_same_weight():
    """rho = log Z for every outcome: the gradient's noise vanishes with the gradient."""
    world = World(("x",), 2)
    log_star = world.exact.log_posterior[0]
    at_posterior = replace(world.outcomes, log_proposal_N=log_star)
    for case in CASES:
        if case.name in ("rloo", "reinforce"):
            weight_N = case.make().weigh(at_posterior, log_star)["weight_N"]
            torch.testing.assert_close(weight_N, torch.zeros_like(weight_N), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 7, None])
@pytest.mark.parametrize("kind", ["table", "gpt2"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_micro_batches_leave_the_gradient_unchanged(request, case, size, kind):
    lm = request.getfixturevalue(kind)
    prompts = ["x", "y"] if kind == "table" else ["a", "b c d"]
    flat = po.Reward(lambda completion_ids, **kw: [len(y) / 1.5 for y in completion_ids], beta=1.0)
    target = po.Target(lm, flat, prompts, 3)

    def gradient(micro_batch_size):
        settings = FitConfig(steps=1, num_samples=8, micro_batch_size=micro_batch_size)
        trainer = Trainer(target, case.make(), settings, None, None)
        generator = torch.Generator().manual_seed(0)
        draws = trainer.objective.draw(target, trainer.policy, prompts, 8, generator)
        log_prob_N = trainer.policy.log_prob(draws.completions).detach()
        constants = trainer.objective.weigh(draws, log_prob_N)
        trainer.updater.backward(draws, constants)
        return torch.cat([p.grad.flatten() for p in trainer.updater.parameters])

    whole = gradient(None if size else 16)
    # Losses that square log pi feel its rounding in float32, some 1e-6 of it.
    tolerance = 1e-12 if kind == "table" else 1e-5
    assert float(whole.abs().max()) > 1e3 * tolerance
    torch.testing.assert_close(gradient(size), whole, rtol=0, atol=tolerance)


def test_the_loop_descends_the_divergence_it_says(table):
    """With many draws per step, the exact KL falls at every step."""
    flat = po.Reward(lambda completion_ids, **kw: [len(y) / 1.5 for y in completion_ids], beta=0.5)
    target = po.Target(table, flat, table.prompts, 3)
    exact = po.exact(target)
    distances = [
        exact.evaluate(
            po.fit(target, "rloo", steps=k, num_samples=500, learning_rate=0.1, decay="none").policy
        )["kl_to_target"].mean()
        for k in (1, 2, 4, 8, 16)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1 * exact.evaluate(table)["kl_to_target"].mean()


def test_figures_of_draws_from_elsewhere_are_the_policys():
    """With every outcome drawn once and q as its weight, the ratio gives the exact figures."""
    world = World(("x",), 2, elsewhere=True)
    prior = world.target.prior
    drawn = draw(world.target, prior, 20_000, torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_pi_N = world.policy.log_prob(drawn.completions)
    figures = RLOO(proposal="prior").observe(drawn, log_pi_N)
    exact = world.exact.evaluate(world.policy)
    ratio_N = (log_pi_N - drawn.log_proposal_N).exp()
    for name in ("elbo", "entropy", "kl_to_prior"):
        # Delta method for a self-normalised mean; at 5.5 standard errors a false alarm in 2.6e7.
        values_N = {
            "elbo": drawn.log_prior_N + drawn.log_evidence_N - log_pi_N,
            "entropy": -log_pi_N,
            "kl_to_prior": log_pi_N - drawn.log_prior_N,
        }[name]
        error = float((ratio_N * (values_N - figures[name])).std()) / len(drawn) ** 0.5
        assert abs(figures[name] - float(exact[name][0])) < 5.5 * error
    assert figures["ratio_variance"] == pytest.approx(float(ratio_N.var(unbiased=False)))

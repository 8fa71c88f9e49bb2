"""rwr and raft, where the table of cases does not reach: their laws at a finite number of draws."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from objective_cases import exact_z
from torch import Tensor

import posteriori as po
from posteriori.errors import ConfigError, SamplingError
from posteriori.objectives.imitation.acceptance import OverZ
from posteriori.objectives.imitation.raft import RAFT, best
from posteriori.objectives.imitation.rwr import RWR
from posteriori.testing.divergences import kl_from_target
from posteriori.testing.worlds import World, reward

EXACT = 1e-8
WRONG = 1e4 * EXACT


@pytest.fixture
def world() -> World:
    return of_the_prior(("x",), 2)


def of_the_prior(prompts: tuple[str, ...], num_samples: int) -> World:
    """A world whose draws come from the prior."""
    made = World(prompts, num_samples)
    made.outcomes = replace(made.outcomes, log_proposal_N=made.outcomes.log_prior_N)
    return made


def imitation_of(world: World, laws: list[Tensor]) -> Tensor:
    """The gradient of the mean over prompts of KL(law, pi)."""
    log_pi = world.policy.log_prob(world.outcomes.completions).split(world.sizes)
    mean = torch.stack([-(law * log).sum() for law, log in zip(laws, log_pi, strict=True)]).mean()
    return torch.autograd.grad(mean, [world.policy.logits])[0]


def prepared(objective, world: World):
    objective.prepare(world.target, lambda: world.policy, seed=0)
    return objective


@pytest.mark.parametrize("control_variate", [True, False])
@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_a_step_of_rwr_imitates_the_law_of_one_resampled_draw(num_samples, control_variate):
    world = of_the_prior(("x",), num_samples)
    objective = prepared(RWR(normaliser="step", control_variate=control_variate), world)
    prior, evidence = world.exact.log_prior[0].exp(), world.exact.log_evidence[0].exp()
    law = torch.zeros_like(prior)
    for chosen in itertools.product(range(len(prior)), repeat=num_samples):
        rows = torch.tensor(chosen)
        law.index_add_(0, rows, prior[rows].prod() * evidence[rows] / evidence[rows].sum())
    gradient = world.expected_gradient(objective)
    torch.testing.assert_close(gradient, imitation_of(world, [law]), rtol=0, atol=EXACT)
    assert (gradient - world.gradient_of(kl_from_target)).abs().max() > WRONG, "it is biased"
    star = world.exact.log_posterior[0].exp()
    chi2 = float((star**2 / prior).sum()) - 1
    assert float((star * (star / law).log()).sum()) <= math.log1p(chi2 / num_samples) + 1e-12


def test_rwr_without_a_control_variate_has_the_same_gradient():
    world = of_the_prior(("x", "y"), 2)
    objective = prepared(RWR(control_variate=False), world)
    exact_z(objective, world)
    expected = world.gradient_of(kl_from_target)
    torch.testing.assert_close(world.expected_gradient(objective), expected, rtol=0, atol=EXACT)


def test_at_the_posterior_every_draw_of_rwr_weighs_nothing(world):
    """The control variate takes the noise with the gradient, given Z."""
    objective = prepared(RWR(), world)
    exact_z(objective, world)
    constants = objective.weigh(world.outcomes, world.outcomes.log_prior_N)
    at_N = world.exact.log_posterior[0][:, None].clone().requires_grad_(True)
    objective.loss(at_N, constants).sum().backward()
    torch.testing.assert_close(at_N.grad, torch.zeros_like(at_N), rtol=0, atol=1e-12)


class WithoutRatio(RWR):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_weight_N=draws.log_evidence_N), log_prob_N)


class WithHalfOfBeta(RWR):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


class WithTheControlOfThePrior(RWR):
    def weigh(self, draws, log_prob_N):
        constants = super().weigh(draws, log_prob_N)
        return {**constants, "log_proposal_N": draws.log_prior_N}


@pytest.mark.parametrize("mutant", [WithoutRatio, WithHalfOfBeta, WithTheControlOfThePrior])
def test_wrong_variants_of_rwr_are_caught(mutant):
    world = World(("x",), 2, elsewhere=True)
    objective = prepared(mutant(), world)
    exact_z(objective, world)
    wrong = world.expected_gradient(objective) - world.gradient_of(kl_from_target)
    assert float(wrong.abs().max()) > WRONG


def accepting(world: World, objective: RAFT, log_p_N: Tensor) -> Tensor:
    """The expected gradient over the world's draws and over who of them is accepted."""
    told_NL = world.policy.token_log_prob(world.outcomes.completions)
    total = torch.zeros((), dtype=torch.float64)
    for rows in world.tuples():
        draws = world.outcomes.select(rows)
        for pattern in itertools.product([True, False], repeat=len(rows)):
            accepted_N = torch.tensor(pattern)
            p_N = log_p_N[rows].exp()
            probability = (
                torch.where(accepted_N, p_N, 1 - p_N).prod() * draws.log_proposal_N.sum().exp()
            )
            log_weight_N = torch.zeros_like(p_N).masked_fill(~accepted_N, -math.inf)
            constants = objective.weigh(replace(draws, log_weight_N=log_weight_N), p_N)
            total = total + probability * objective.loss(told_NL[rows], constants).mean()
    return torch.autograd.grad(total, [world.policy.logits])[0]


def test_rafts_gradient_is_that_of_the_forward_kl_times_the_chance_to_accept_any():
    """[1 - (1 - Z/M)^n] grad KL(p*, pi), and not without the factor, nor at half of beta."""
    world = of_the_prior(("x",), 3)
    log_e_N = world.outcomes.log_evidence_N
    log_bound = float(log_e_N.max()) + 0.2
    gradient = accepting(world, prepared(RAFT(), world), log_e_N - log_bound)
    factor = 1 - (1 - math.exp(float(world.exact.log_z[0]) - log_bound)) ** 3
    exact = world.gradient_of(kl_from_target)
    torch.testing.assert_close(gradient, factor * exact, rtol=0, atol=EXACT)
    assert (gradient - exact).abs().max() > WRONG
    half = accepting(world, prepared(RAFT(), world), 2 * (log_e_N - log_bound))
    cosine = torch.nn.functional.cosine_similarity(half.flatten(), exact.flatten(), dim=0)
    assert cosine < 1 - 1e-3


def test_raft_accepts_where_u_is_below_e_over_the_bound(world):
    log_e_N = world.outcomes.log_evidence_N
    objective = prepared(RAFT(max_log_evidence=2.0), world)
    p_N = (log_e_N - 2.0).exp()
    below = objective.accept(world.outcomes, p_N * (1 - 1e-9)).log_weight
    above = objective.accept(world.outcomes, p_N * (1 + 1e-9)).log_weight
    assert bool((below == 0).all())
    assert bool(above.isneginf().all())
    with pytest.raises(SamplingError, match=r"above its bound of 1, .*max_log_evidence"):
        prepared(RAFT(max_log_evidence=1.0), world).accept(world.outcomes, p_N)


def of_the_policy(num_samples: int) -> World:
    """A world whose draws come from the policy as it stands."""
    made = World(("x",), num_samples)
    log_pi_N = made.policy.log_prob(made.outcomes.completions).detach()
    made.outcomes = replace(made.outcomes, log_proposal_N=log_pi_N)
    return made


def test_raft_by_the_policy_accepts_by_its_own_ratio_over_z():
    """P = min(1, p~ / (a Z pi)): not e/M, and not a ratio to the prior."""
    world = of_the_policy(2)
    objective = prepared(RAFT(proposal="policy", headroom=1.5), world)
    exact_z(objective.accept, world)
    log_w_N = world.outcomes.log_prior_N + world.outcomes.log_evidence_N
    log_w_N = log_w_N - world.outcomes.log_proposal_N
    p_N = (log_w_N - world.exact.log_z[0]).exp() / 1.5
    sure_N = p_N >= 1
    assert 0 < int(sure_N.sum()) < len(p_N)
    below = objective.accept(world.outcomes, (p_N * (1 - 1e-9)).clamp(max=1 - 1e-12)).log_weight
    above = objective.accept(world.outcomes, (p_N * (1 + 1e-9)).clamp(max=1 - 1e-12)).log_weight
    assert bool((below == 0).all())
    assert torch.equal(above == 0, sure_N)


def test_rafts_gradient_by_the_policy_is_that_towards_what_it_accepts():
    """[1 - (1 - A)^n] grad KL(q_a, pi), q_a = min(p~, a Z pi) / (A a Z), held as it stands."""
    world = of_the_policy(3)
    objective = prepared(RAFT(proposal="policy", headroom=1.5, control_variate=False), world)
    pi_N = world.outcomes.log_proposal_N.exp()
    star_N = world.exact.log_posterior[0].exp()
    p_N = (star_N / (1.5 * pi_N)).clamp(max=1)
    accepted = float((pi_N * p_N).sum())
    gradient = accepting(world, objective, p_N.log())
    law_N = pi_N * p_N / accepted
    exact = (1 - (1 - accepted) ** 3) * imitation_of(world, [law_N])
    torch.testing.assert_close(gradient, exact, rtol=0, atol=EXACT)


class InTheMean(RAFT):
    """Weighs a draw as `draw` leaves it: by its chance to be accepted."""

    def weigh(self, draws, log_prob_N):
        assert isinstance(self.accept, OverZ)
        return super().weigh(self.accept.expected(draws), log_prob_N)


class InTheMeanWithoutControl(InTheMean):
    def weigh(self, draws, log_prob_N):
        constants = super().weigh(draws, log_prob_N)
        return {**constants, "control_N": torch.zeros_like(log_prob_N)}


class InTheMeanByEvidence(InTheMean):
    """The mutant that forgets the ratio of prior to policy."""

    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_weight_N=draws.log_evidence_N), log_prob_N)


def in_the_mean(kind: type[RAFT], world: World) -> RAFT:
    objective = prepared(kind(proposal="policy", headroom=1.5), world)
    exact_z(objective.accept, world)
    return objective


def test_rafts_control_variate_leaves_a_times_the_gradient_of_what_is_accepted():
    """a A grad KL(q_a, pi), with the control and without, whatever the number of draws."""
    world = of_the_policy(2)
    pi_N = world.outcomes.log_proposal_N.exp()
    star_N = world.exact.log_posterior[0].exp()
    expected = imitation_of(world, [torch.minimum(star_N, 1.5 * pi_N)])
    for kind in (InTheMean, InTheMeanWithoutControl):
        gradient = world.expected_gradient(in_the_mean(kind, world))
        torch.testing.assert_close(gradient, expected, rtol=0, atol=EXACT)
    wrong = world.expected_gradient(in_the_mean(InTheMeanByEvidence, world))
    assert float((wrong - expected).abs().max()) > WRONG


def test_at_the_posterior_no_draw_of_the_policys_moves_raft():
    world = World(("x",), 2)
    log_star_N = world.exact.log_posterior[0]
    outcomes = replace(world.outcomes, log_proposal_N=log_star_N)

    def pull(kind: type[RAFT]) -> Tensor:
        objective = in_the_mean(kind, world)
        constants = objective.weigh(outcomes, log_star_N)
        at_N = log_star_N[:, None].clone().requires_grad_(True)
        objective.loss(at_N, constants).sum().backward()
        assert at_N.grad is not None
        return at_N.grad.abs().max()

    assert float(pull(InTheMean)) < 1e-12
    assert float(pull(InTheMeanWithoutControl)) > WRONG


@pytest.mark.parametrize("headroom", [1.2, 2.0, 8.0])
def test_the_target_alone_is_what_raft_by_the_policy_accepts_all_of(headroom):
    """pi <- min(p~, a Z pi) / sum, again and again, from the prior and from anywhere."""
    world = World(("x",), 2)
    star_N = world.exact.log_posterior[0].exp()
    noise = torch.Generator().manual_seed(4)
    for start_N in (
        world.exact.log_prior[0].exp(),
        torch.rand(len(star_N), dtype=torch.float64, generator=noise) ** 4,
    ):
        pi_N = start_N / start_N.sum()
        for _ in range(200):
            accepted_N = torch.minimum(star_N, headroom * pi_N)
            pi_N = accepted_N / accepted_N.sum()
        torch.testing.assert_close(pi_N, star_N, rtol=0, atol=1e-12)
    collapsed_N = star_N * world.exact.log_evidence[0].exp()
    assert (collapsed_N / collapsed_N.sum() - star_N).abs().max() > 0.01, "e/M would go on"


def test_rafts_running_bound_is_each_prompts_largest_evidence_so_far():
    world = of_the_prior(("x", "y"), 1)
    objective = prepared(RAFT(), world)
    log_e_N = world.outcomes.log_evidence_N
    order = log_e_N[: world.sizes[0]].argsort()
    low, high = world.outcomes.select(order[:1]), world.outcomes.select(order[-1:])
    certain = torch.tensor([1 - 1e-12], dtype=torch.float64)
    assert objective.accept(low, certain).log_weight == 0, "it is the largest there has been"
    objective.observe(objective.accept(high, certain), high.log_prior_N)
    assert objective.accept(low, certain).log_weight.isneginf()
    p = (low.log_evidence_N - high.log_evidence_N).exp()
    assert objective.accept(low, p * (1 - 1e-9)).log_weight == 0
    other = world.outcomes.select([world.sizes[0]])
    assert objective.accept(other, certain).log_weight == 0, "prompts have bounds of their own"


def test_likelihoods_and_constraints_bound_themselves(table):
    def target(*evidence):
        return po.Target(table, evidence, table.prompts, 3)

    sure = po.Likelihood(lambda completions, **kw: [0.5 for _ in completions])
    holds = po.Constraint(lambda completions, **kw: [True for _ in completions])
    assert target(sure, holds).max_log_evidence == 0
    assert target(sure, po.Reward(reward, beta=1.0)).max_log_evidence is None


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_best_of_n_imitates_the_law_of_the_best(num_samples):
    """Its law is prior (F^n - F-^n) / (F - F-), F the cdf of log e; ties share."""
    world = of_the_prior(("x",), num_samples)
    tied_N = (2 * world.outcomes.log_evidence_N).round()
    assert len(tied_N.unique()) < len(tied_N), "there are ties"
    world.outcomes = replace(world.outcomes, log_evidence_N=tied_N)
    objective = prepared(RAFT(select="best_of_n"), world)

    class Chooses(RAFT):
        def weigh(self, draws, log_prob_N):
            return objective.weigh(replace(draws, log_weight_N=best(draws)), log_prob_N)

    prior_N = world.outcomes.log_prior_N.exp()
    upto_N = torch.stack([prior_N[tied_N <= e].sum() for e in tied_N])
    below_N = torch.stack([prior_N[tied_N < e].sum() for e in tied_N])
    law = prior_N * (upto_N**num_samples - below_N**num_samples) / (upto_N - below_N)
    assert float(law.sum()) == pytest.approx(1)
    gradient = world.expected_gradient(Chooses(select="best_of_n"))
    torch.testing.assert_close(gradient, imitation_of(world, [law]), rtol=0, atol=EXACT)


def test_on_the_policys_own_draws_best_of_n_collapses(table):
    target = po.Target(table, po.Reward(in_words, beta=0.5), table.prompts, 3)
    settings = {"steps": 60, "num_samples": 16, "learning_rate": 0.3, "decay": "none"}

    def entropy(proposal: str) -> float:
        objective = RAFT(select="best_of_n", proposal=proposal)
        return float(
            po.exact(target).evaluate(po.fit(target, objective, **settings).policy)["entropy"].max()
        )

    assert entropy("policy") < 0.1
    assert entropy("prior") > 0.5


def in_words(completions, **kwargs):
    return [text.count("a") + 0.01 * len(text) for text in completions]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proposal": "policy", "max_log_evidence": 0.0}, "accepted by p~ / pi"),
        ({"select": "best_of_n", "max_log_evidence": 0.0}, "best_of_n accepts none"),
        ({"headroom": 3.0}, "headroom is about .* none is here"),
        ({"control_variate": False}, "control_variate is about .* none is here"),
        ({"select": "best_of_n", "proposal": "policy", "headroom": 3.0}, "none is here"),
        ({"proposal": "policy", "headroom": 1.0}, "greater than 1"),
    ],
)
def test_raft_refuses_what_makes_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        RAFT(**settings)


def rarely(completions, **kwargs):
    return [text == "c c c" for text in completions]


@pytest.mark.parametrize("objective", ["rwr", "raft"])
def test_a_prompt_without_weight_adds_nothing_and_is_recorded(objective, table):
    target = po.Target(table, po.Constraint(rarely), table.prompts, 3)
    fitted = po.fit(target, objective, steps=1, num_samples=2, learning_rate=0.1)
    record = fitted.history[0]
    name = {"rwr": "prompts_without_weight", "raft": "prompts_without_accepted"}[objective]
    assert record[name] == 2
    assert record["loss"] == 0
    assert torch.equal(fitted.policy.logits, table.logits)

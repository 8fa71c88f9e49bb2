"""The expected gradient of every objective is the gradient of what it says it minimises.

No randomness: on a table of two words and two steps every tuple of draws is written down, weighed
by its probability, and the loop's own loss (the mean over the draws) is summed over all of them.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import posteriori as po
from posteriori.config import FitSettings
from posteriori.objectives.rl import RL
from posteriori.objectives.rloo import RLOO
from posteriori.registry import find, names
from posteriori.train.loop import Trainer
from posteriori.types import Draws

WORDS = ("<eos>", "a", "b")
DEPTH = 2


def reward(completions, **kwargs):
    """Neither constant, nor additive over tokens, nor blind to the end of the sequence."""
    worth = {"": 0.3, "a": -0.7, "b": 1.1, "a a": 0.2, "a b": -1.3, "b a": 0.9, "b b": 0.4}
    return [worth[text] for text in completions]


class World:
    """Every outcome of a policy that differs from the prior, and the target's view of it."""

    def __init__(self, prompts: tuple[str, ...], num_samples: int) -> None:
        prior = po.TabularLM.random(WORDS, DEPTH, prompts, seed=3)
        self.policy = po.TabularLM.random(WORDS, DEPTH, prompts, seed=4).requires_grad_(True)
        self.target = po.Target(prior, po.Reward(reward, beta=0.7), prompts, DEPTH)
        exact = po.exact(self.target)
        self.outcomes = exact.outcomes
        self.log_prior = exact.log_prior
        self.log_evidence = exact.log_evidence
        self.num_samples = num_samples

    def log_pi(self) -> list[Tensor]:
        return [self.policy.log_prob(outcomes) for outcomes in self.outcomes]

    def tuples(self):
        """Every way to draw `num_samples` outcomes for each prompt, as rows of all outcomes."""
        per_prompt = [
            itertools.product(range(len(outcomes)), repeat=self.num_samples)
            for outcomes in self.outcomes
        ]
        return itertools.product(*per_prompt)

    def expected_gradient(self, objective, scored: Tensor | None = None) -> Tensor:
        """E over all draws of the gradient of the mean loss; `scored`: another log pi."""
        log_pi = self.log_pi()
        values = torch.cat(log_pi)
        pool = Pool(self)
        total = torch.zeros((), dtype=torch.float64)
        for chosen in self.tuples():
            rows = torch.tensor(
                [pool.start[p] + row for p, rows in enumerate(chosen) for row in rows]
            )
            draws = pool.draws(rows, values.detach())
            weight_N = objective.weigh(draws)
            descended = values if scored is None else scored
            loss = objective.loss(descended[rows], weight_N).mean()
            total = total + values.detach()[rows].sum().exp() * loss
        (gradient,) = torch.autograd.grad(total, [self.policy.logits])
        return gradient

    def gradient_of(self, divergence) -> Tensor:
        parts = zip(self.log_pi(), self.log_prior, self.log_evidence, strict=True)
        mean = torch.stack([divergence(*part) for part in parts]).mean()
        return torch.autograd.grad(mean, [self.policy.logits])[0]


class Pool:
    """The outcomes of all prompts one after another, from which tuples of draws are taken."""

    def __init__(self, world: World) -> None:
        sizes = [len(outcomes) for outcomes in world.outcomes]
        self.start = [sum(sizes[:p]) for p in range(len(sizes))]
        prompts = [prompt for o in world.outcomes for prompt in o.prompts]
        ids = [y for o in world.outcomes for y in o.completion_ids]
        self.completions = world.policy.completions(prompts, ids, DEPTH)
        self.log_prior = torch.cat(world.log_prior)
        self.log_evidence = torch.cat(world.log_evidence)

    def draws(self, rows: Tensor, log_pi: Tensor) -> Draws:
        evidence = self.log_evidence[rows]
        return Draws(
            self.completions.select(rows), log_pi[rows], self.log_prior[rows], evidence, evidence
        )


def kl_to_target(log_pi, log_prior, log_evidence):
    log_star = (log_prior + log_evidence).log_softmax(0)
    return (log_pi.exp() * (log_pi - log_star)).sum()


def minus_log_evidence(log_pi, log_prior, log_evidence):
    return -(log_pi.exp() * log_evidence).sum()


DIVERGENCES = {"rl": minus_log_evidence, "reinforce": kl_to_target, "rloo": kl_to_target}
WORLDS = {"two draws": (("x",), 2), "three draws": (("x",), 3), "two prompts": (("x", "y"), 2)}
EXACT = 1e-8


def test_every_objective_is_among_these_cases():
    assert DIVERGENCES.keys() == names("objective").keys()
    for name, divergence in DIVERGENCES.items():
        objective = find("objective", name)
        assert objective.name == name
        says = "KL(policy, target)" if divergence is kl_to_target else None
        assert objective.divergence == says


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_expected_gradient_is_that_of_the_divergence(name, world):
    world = World(*WORLDS[world])
    expected = world.gradient_of(DIVERGENCES[name])
    assert float(expected.abs().max()) > 0.01
    gradient = world.expected_gradient(find("objective", name)())
    torch.testing.assert_close(gradient, expected, rtol=0, atol=EXACT)


def test_reinforce_borrows_its_baseline_from_other_prompts():
    """One draw a prompt is enough for it, and the gradient is still unbiased."""
    world = World(("x", "y"), 1)
    gradient = world.expected_gradient(find("objective", "reinforce")())
    torch.testing.assert_close(gradient, world.gradient_of(kl_to_target), rtol=0, atol=EXACT)


class WithoutPrior(RLOO):
    def weigh(self, draws):
        return super().weigh(replaced(draws, log_prior_N=torch.zeros_like(draws.log_prior_N)))


class WithHalfOfBeta(RLOO):
    def weigh(self, draws):
        return super().weigh(replaced(draws, log_evidence_N=2 * draws.log_evidence_N))


class WithItsOwnDrawInTheBaseline(RLOO):
    def weigh(self, draws):
        return draws.log_weight - draws.log_weight.mean()


class WithoutBaselineSign(RLOO):
    def weigh(self, draws):
        return -super().weigh(draws)


class RewardWithItsOwnDrawInTheBaseline(RL):
    def weigh(self, draws):
        return draws.log_evidence_N - draws.log_evidence_N.mean()


def replaced(draws: Draws, **fields) -> Draws:
    return Draws(**{**draws.__dict__, **fields})


@pytest.mark.parametrize(
    ("mutant", "divergence"),
    [
        (WithoutPrior, kl_to_target),
        (WithHalfOfBeta, kl_to_target),
        (WithItsOwnDrawInTheBaseline, kl_to_target),
        (WithoutBaselineSign, kl_to_target),
        (RewardWithItsOwnDrawInTheBaseline, minus_log_evidence),
    ],
)
def test_wrong_variants_are_caught(mutant, divergence):
    world = World(("x",), 2)
    wrong = world.expected_gradient(mutant()) - world.gradient_of(divergence)
    assert float(wrong.abs().max()) > 1e4 * EXACT


def test_leaving_out_the_end_of_sequence_is_caught():
    world = World(("x",), 2)
    outcomes = world.outcomes[0]
    log_prob_NLV = world.policy.logits.log_softmax(-1)
    # The log-probs of the same outcomes, their EOS counted as certain.
    first, second = outcomes.tokens_NL[:, 0], outcomes.tokens_NL[:, 1]
    one = log_prob_NLV[0, 0, first].where(first != 0, 0.0)
    two = log_prob_NLV[0, first.clamp(min=1), second].where((first != 0) & (second != 0), 0.0)
    without_eos = one + two
    wrong = world.expected_gradient(RLOO(), without_eos) - world.gradient_of(kl_to_target)
    assert float(wrong.abs().max()) > 1e4 * EXACT


def test_at_the_posterior_every_draw_has_the_same_weight():
    """rho = log Z for every outcome: the gradient's noise vanishes with the gradient."""
    world = World(("x",), 2)
    log_star = po.exact(world.target).log_posterior[0]
    pool = Pool(world)
    rows = torch.arange(len(log_star))
    for name in ("rloo", "reinforce"):
        weight_N = find("objective", name)().weigh(pool.draws(rows, log_star))
        torch.testing.assert_close(weight_N, torch.zeros_like(weight_N), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 7, None])
@pytest.mark.parametrize("kind", ["table", "gpt2"])
def test_micro_batches_leave_the_gradient_unchanged(request, size, kind):
    lm = request.getfixturevalue(kind)
    prompts = ["x", "y"] if kind == "table" else ["a", "b c d"]
    flat = po.Reward(lambda completion_ids, **kw: [len(y) / 1.5 for y in completion_ids], beta=1.0)
    target = po.Target(lm, flat, prompts, 3)

    def gradient(micro_batch_size):
        settings = FitSettings(steps=1, num_samples=8, micro_batch_size=micro_batch_size)
        trainer = Trainer(target, RLOO(), settings, None, None)
        completions = trainer.policy.sample(prompts, 8, 3, torch.Generator().manual_seed(0))
        log_pi = completions.log_prob_N.double()
        density = target.log_density(completions)
        draws = Draws(completions, log_pi, density.prior, density.evidence, density.reward)
        trainer._backward(draws, RLOO().weigh(draws))
        return torch.cat([p.grad.flatten() for p in trainer.parameters])

    whole = gradient(16)
    tolerance = 1e-12 if kind == "table" else 1e-6
    assert float(whole.abs().max()) > 1e3 * tolerance
    torch.testing.assert_close(gradient(size), whole, rtol=0, atol=tolerance)


def test_the_loop_descends_the_divergence_it_says(table):
    """With many draws a step, the exact KL falls at every step."""
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

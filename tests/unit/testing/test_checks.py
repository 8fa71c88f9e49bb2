"""The checks for plugins pass what is right, and each catches what it is there for."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
from dataclasses import replace

import pytest
import torch

import posteriori as po
from posteriori import testing
from posteriori.core.protocols import Scores
from posteriori.errors import ConfigError
from posteriori.objectives.policy_gradient.rl import RL
from posteriori.objectives.policy_gradient.rloo import RLOO
from posteriori.samplers.independent.importance import Importance
from posteriori.samplers.independent.rejection import Rejection
from posteriori.samplers.smc.twists import Twist
from posteriori.testing import CheckFailedError
from posteriori.testing.cases import uneven_reward

pytestmark = pytest.mark.long


@pytest.mark.moves_rng
@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(testing.__path__)])
def test_examples_run(name):
    module = importlib.import_module(f"posteriori.testing.{name}")
    found = doctest.testmod(module)
    assert found.failed == 0


class HalfOfBeta(RLOO):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


class OwnDrawInTheBaseline(RLOO):
    def advantage(self, draws, log_prob_N):
        rho_N = draws.log_prior_N + draws.log_evidence_N - log_prob_N
        return rho_N - rho_N.mean()


def test_wrong_gradients_are_caught_and_a_right_one_passes():
    assert testing.check_gradient(RLOO, elsewhere=True) < 1e-8
    caught = testing.check_mutants(testing.check_gradient, [HalfOfBeta, OwnDrawInTheBaseline])
    assert caught == ["HalfOfBeta", "OwnDrawInTheBaseline"]


def test_what_declares_no_divergence_needs_one():
    with pytest.raises(ConfigError, match="declares the divergence None"):
        testing.check_gradient(RL)


def test_a_mutant_that_passes_is_named():
    with pytest.raises(CheckFailedError, match="wrong variants pass: RLOO"):
        testing.check_mutants(testing.check_gradient, [RLOO, HalfOfBeta])


class Unweighted(Importance):
    """Draws of the proposal as they are."""

    def run(self, job):
        draws = super().run(job)
        return replace(draws, log_weight_N=torch.zeros_like(draws.log_prior_N))


class ForgetsTheProposal(Importance):
    def run(self, job):
        draws = super().run(job)
        return replace(draws, log_weight_N=draws.log_prior_N + draws.log_evidence_N)


def test_samplers_are_what_they_say():
    assert testing.check_sampler("smc").caught < 0.1
    exact = testing.check_sampler(
        Rejection(max_log_weight=3.5), num_samples=100, replicates=60, shift=0.25
    )
    assert exact.largest < exact.limit
    testing.check_mutants(testing.check_sampler, [Unweighted(), ForgetsTheProposal()])


def test_a_sampler_that_says_nothing_and_a_check_that_sees_nothing_are_refused():
    with pytest.raises(ConfigError, match="'asymptotic' says nothing"):
        testing.check_sampler("imh")
    with pytest.raises(ConfigError, match="give replicates="):
        testing.check_sampler("importance", num_samples=10)


def test_kernels():
    law = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    cycle = torch.eye(3, dtype=torch.float64).roll(1, 1)
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert testing.check_kernel(cycle, uniform) < 1e-12
    for matrix, of, match in (
        (cycle, law, "moves the law"),
        (cycle * 0.9, uniform, "sum of 1"),
        (2 * torch.eye(3, dtype=torch.float64) - cycle, uniform, "has a probability of -1"),
    ):
        with pytest.raises(CheckFailedError, match=match):
            testing.check_kernel(matrix, of)
    with pytest.raises(CheckFailedError, match="not reversible"):
        testing.check_kernel(cycle, uniform, reversible=True)


class Fixed:
    """Evidence from a function of the ids of one completion."""

    def __init__(self, of, dtype=torch.float64):
        self.of, self.dtype, self.calls = of, dtype, 0

    def score(self, completions, columns):
        self.calls += 1
        values = torch.tensor([self.of(ids) for ids in completions.completion_ids])
        return Scores(values.to(self.dtype), values.to(self.dtype))


class OfItsBatch(Fixed):
    def score(self, completions, columns):
        log_e, _ = super().score(completions, columns)
        return Scores(log_e - log_e.mean(), log_e)


class OfItsCalls(Fixed):
    def score(self, completions, columns):
        log_e, _ = super().score(completions, columns)
        return Scores(log_e + self.calls, log_e)


class RulesOutTooMuch(Fixed):
    def prefix_log_evidence(self, completions, columns):
        return torch.full((len(completions),), -torch.inf, dtype=torch.float64)


def length(ids):
    return float(len(ids))


def test_evidence():
    hard = testing.check_evidence(Fixed(lambda ids: 0.0 if ids[0] == 1 else -math.inf))
    assert hard.log_evidence.isneginf().any()
    testing.check_evidence(po.Reward(uneven_reward, beta=0.3))
    testing.check_evidence(po.Power(2.0))
    testing.check_evidence(
        po.Constraint(
            lambda completion_ids, **_: [y[0] == 2 for y in completion_ids],
            prefix=lambda completion_ids, **_: [y[0] == 2 for y in completion_ids],
        )
    )
    wrong = {
        "float32": Fixed(length, torch.float32),
        "NaN": Fixed(lambda ids: math.nan),
        "+inf": Fixed(lambda ids: math.inf),
        "of its batch": OfItsBatch(length),
        "of its calls": OfItsCalls(length),
        "rules out too much": RulesOutTooMuch(length),
    }
    assert testing.check_mutants(testing.check_evidence, wrong) == list(wrong)


class Guess(Twist):
    """Wrong, and positive: no harm is done."""

    name = "guess"

    def log_psi(self, prefixes):
        return prefixes.completions.tokens_NL[:, 0].double() - 0.5


class RulesOut(Twist):
    """psi = 0 where there is evidence to come."""

    name = "rules out"

    def log_psi(self, prefixes):
        return torch.full((len(prefixes.completions),), -math.inf, dtype=torch.float64)


def test_twists():
    assert testing.check_twist(Guess()) < 1e-8
    assert testing.check_mutants(testing.check_twist, [RulesOut()]) == ["RulesOut"]


def test_language_models():
    case = testing.model_case("gpt_neox")
    testing.check_language_model(case.target.prior, case.target.prompts, 3)
    table = testing.table_case()
    testing.check_language_model(table.proposal, table.target.prompts, 2)

    class Unnormalised(po.TabularLM):
        def token_log_prob(self, completions):
            return super().token_log_prob(completions) + 0.01

        def log_prob(self, completions):
            return super().log_prob(completions) + 0.01

    wrong = Unnormalised.random(("<eos>", "a"), 2, ("x",))
    with pytest.raises(CheckFailedError, match="not 1"):
        testing.check_language_model(wrong, ["x"], 2)


def test_fits():
    with pytest.raises(CheckFailedError, match="was to be"):
        testing.check_fit(HalfOfBeta, within=0.01, steps=20)

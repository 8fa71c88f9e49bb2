"""Where samplers lie in the reward-KL plane: by enumeration, then by draws, on a table.

Statistical asserts are z-tests (t-tests over independent groups where draws depend on each other),
two-sided at a false-alarm rate of 1e-6 each. The sample sizes make the smallest mutant below, the
target at twice its beta, at least 12 standard errors away.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm, t

import posteriori as po
from posteriori.core.numerics import ess
from posteriori.core.registry import find
from posteriori.core.types import Draws, Estimate, Finding
from posteriori.diagnostics.frontier.sampler_points import NO_LOG_Z, sampled, with_log_z
from posteriori.samplers.independent.best_of_n_law import best_of_n_log_prob

WORDS = ["<eos>", "good", "bad"]
PROMPTS = ("x", "y")
N = 4_000
FALSE_ALARM = 1e-6


def reward(completions, **_):
    return [c.count("good") - 0.5 * c.count("bad") for c in completions]


def target_at(beta: float = 0.7, *more) -> po.Target:
    prior = po.TabularLM.random(WORDS, 3, PROMPTS, seed=1)
    return po.Target(prior, [po.Reward(reward, beta, max_reward=3.0), *more], list(PROMPTS), 3)


def not_bad(completions, **_):
    return ["bad" not in c for c in completions]


def other_proposal() -> po.TabularLM:
    return po.TabularLM.random(WORDS, 3, PROMPTS, seed=7)


@pytest.fixture(scope="module")
def world():
    target = target_at()
    return target, po.exact(target)


def everything(target: po.Target, log_weight) -> Draws:
    """Every outcome of every prompt once; `log_weight(exact, at)` is its weight's logarithm."""
    exact = po.exact(target)
    parts = [
        Draws(
            exact.outcomes[at],
            exact.log_prior[at],
            exact.log_prior[at],
            exact.log_evidence[at],
            exact.reward[at],
            log_weight_N=log_weight(exact, at),
        )
        for at in range(len(target.prompts))
    ]
    return Draws.concat(parts)


def distance(estimate: Estimate, truth: float) -> float:
    return (estimate.value - truth) / estimate.standard_error


def of_target(exact) -> dict[str, float]:
    figures = exact.evaluate_target()
    return {key: float(figures[key].mean()) for key in ("kl_to_prior", "mean_reward")}


class TestExactly:
    @pytest.mark.parametrize("hard", [False, True])
    def test_weighted_outcomes_are_the_target(self, hard):
        """Each outcome once with weight p~ times their number: the means are the sums."""
        target = target_at(0.7, *([po.Constraint(not_bad)] if hard else []))
        draws = everything(
            target,
            lambda e, at: e.log_prior[at] + e.log_evidence[at] + math.log(len(e.log_prior[at])),
        )
        told = sampled(target, replace(draws, guarantee="properly_weighted"))
        # So few outcomes carry the weight that, as draws, they would not be enough.
        assert told.why == "fewer than 20 effective draws of a prompt"
        assert "kl_to_prior" not in told.figures
        many = Draws.concat([draws] * 20)
        told = sampled(target, replace(many, guarantee="properly_weighted"))
        for name, truth in of_target(po.exact(target)).items():
            assert told.figures[name].value == pytest.approx(truth, rel=1e-12)
        log_z = po.exact(target).log_z
        assert told.figures["log_z"].value == pytest.approx(float(log_z.mean()), rel=1e-12)
        assert told.why == ""

    def test_a_known_log_z_makes_a_kl(self, world):
        """KL(p*, prior) = E_p*[log e] - log Z, to 1e-12; prompt by prompt, errors as squares."""
        _, exact = world
        means = [float(exact.log_posterior[p].exp() @ exact.log_evidence[p]) for p in (0, 1)]

        def estimate(values, errors) -> Estimate:
            each = [Estimate(v, e, "exact", 9) for v, e in zip(values, errors, strict=True)]
            return Estimate(sum(values) / 2, 0.0, "exact", 9, per_prompt=tuple(each))

        mean = estimate(means, (0.3, 0.0))
        log_z = estimate([float(z) for z in exact.log_z], (0.4, 1.0))
        found = with_log_z({"mean_log_evidence": mean}, log_z)["kl_to_prior"]
        truth = exact.evaluate_target()["kl_to_prior"]
        assert [e.value for e in found.per_prompt] == pytest.approx(list(truth), rel=1e-12)
        assert [e.standard_error for e in found.per_prompt] == pytest.approx([0.5, 1.0])
        summed = with_log_z({"mean_log_evidence": mean}, log_z, independent=False)["kl_to_prior"]
        assert [e.standard_error for e in summed.per_prompt] == pytest.approx([0.7, 1.0])


BY_WEIGHTS_OR_LOG_Z = {
    "importance": ({}, None),
    "rejection": ({}, None),
    "smc": ({"twist": "evidence", "replicates": 40}, 40),
    "annealed": ({"replicates": 100, "ladder": (0.0, 0.5, 1.0)}, 100),
    "imh": ({"chains": 100}, 100),
}


class TestByDraws:
    @pytest.mark.parametrize("name", BY_WEIGHTS_OR_LOG_Z)
    def test_draws_of_the_target_lie_on_the_exact_frontier(self, world, name):
        """At the target's own point of it; the point of twice the beta is another one."""
        target, exact = world
        settings, groups = BY_WEIGHTS_OR_LOG_Z[name]
        told = sampled(target, po.sample(target, name, N, seed=5, **settings))
        assert told.why == ""
        tail = FALSE_ALARM / 2
        sure = norm.isf(tail) if groups is None else t.isf(tail, groups - 1)
        gentler = of_target(po.exact(target_at(1.4)))
        for key, truth in of_target(exact).items():
            assert abs(distance(told.figures[key], truth)) < sure
            assert abs(distance(told.figures[key], gentler[key])) > 12

    def test_chains_without_log_z_take_the_exact_one(self, world):
        target, exact = world
        told = sampled(target, po.sample(target, "mh", N // 2, seed=5, chains=100))
        assert told.why == NO_LOG_Z
        assert "kl_to_prior" not in told.figures
        each = tuple(Estimate(float(z), 0.0, "exact", 1) for z in exact.log_z)
        known = Estimate(float(exact.log_z.mean()), 0.0, "exact", 2, per_prompt=each)
        figures = with_log_z(told.figures, known)
        for key, truth in of_target(exact).items():
            assert abs(distance(figures[key], truth)) < t.isf(FALSE_ALARM / 2, 99)

    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_best_of_n_lies_where_its_law_does(self, world, elsewhere):
        """KL(p_n, prior) and reward by the enumerated law, from the prior or from elsewhere; from
        elsewhere the KL to the proposal is seen to be another number."""
        target, exact = world
        proposal = other_proposal() if elsewhere else target.prior
        log_q = exact.log_prob(proposal)
        draws = po.sample(target, "best_of_n", N, proposal, seed=2, n=4)
        told = sampled(target, draws)
        assert told.why == ""
        kl, from_q, gained = [], [], []
        for at in range(len(PROMPTS)):
            log_p = best_of_n_log_prob(log_q[at], exact.log_evidence[at], 4)
            kl.append(float(log_p.exp() @ (log_p - exact.log_prior[at])))
            from_q.append(float(log_p.exp() @ (log_p - log_q[at])))
            gained.append(float(log_p.exp() @ exact.reward[at]))
        sure = norm.isf(FALSE_ALARM / 2)
        assert abs(distance(told.figures["kl_to_prior"], sum(kl) / 2)) < sure
        assert abs(distance(told.figures["mean_reward"], sum(gained) / 2)) < sure
        if elsewhere:
            assert abs(distance(told.figures["kl_to_prior"], sum(from_q) / 2)) > 12

    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_qrs_lies_where_its_law_does(self, world, elsewhere):
        """p_b ~ min(p~, b q), enumerated; the target itself is seen to be elsewhere."""
        target, exact = world
        proposal = other_proposal() if elsewhere else target.prior
        log_b = 0.5
        draws = po.sample(target, "qrs", N, proposal, seed=3, log_threshold=log_b)
        told = sampled(target, draws)
        kl, gained = [], []
        for at, log_q in enumerate(exact.log_prob(proposal)):
            log_target = exact.log_prior[at] + exact.log_evidence[at]
            log_p = torch.minimum(log_target, log_q + log_b).log_softmax(0)
            kl.append(float(log_p.exp() @ (log_p - exact.log_prior[at])))
            gained.append(float(log_p.exp() @ exact.reward[at]))
        sure = norm.isf(FALSE_ALARM / 2)
        assert abs(distance(told.figures["kl_to_prior"], sum(kl) / 2)) < sure
        assert abs(distance(told.figures["mean_reward"], sum(gained) / 2)) < sure
        assert abs(distance(told.figures["kl_to_prior"], of_target(exact)["kl_to_prior"])) > 12


class TestNoPlace:
    """Never a point whose place is not known."""

    @pytest.mark.parametrize(
        ("name", "settings"),
        [("power", {"moves": 2}), ("soft_best_of_n", {"n": 4}), ("best_of_n", {"n": 4})],
    )
    def test_a_law_of_its_own_without_a_kl(self, name, settings):
        target = target_at(0.7, po.Constraint(not_bad))
        made = find("sampler", name)(**settings)
        draws = po.sample(target, made, 60, seed=1)
        told = sampled(target, draws, of_target=made.of_target)
        if name == "best_of_n":  # of some picks all four were ruled out
            assert bool(draws.log_weight.isneginf().any())
        assert told.why == "a law of its own, whose KL to the prior is not known"
        assert "kl_to_prior" not in told.figures
        assert math.isfinite(told.figures["mean_reward"].value)

    @pytest.mark.parametrize(
        ("finding", "why"),
        [
            ("weights_not_trusted", "weights that cannot be trusted"),
            ("chains_disagree", "chains that have not converged"),
            ("chains_drift", "chains that have not converged"),
            ("convergence_unknown", "chains that may not have converged"),
        ],
    )
    def test_draws_that_are_in_doubt(self, world, finding, why):
        target, _ = world
        draws = po.sample(target, "importance", 500, seed=1)
        least = min(float(ess(draws.log_weight[500 * at : 500 * at + 500])) for at in (0, 1))
        assert 20 < least < 250
        sure = replace(draws, findings=())
        assert "kl_to_prior" in sampled(target, sure).figures
        doubted = replace(sure, findings=(Finding("warn", finding, "It is in doubt."),))
        told = sampled(target, doubted)
        assert told.why == why
        assert "kl_to_prior" not in told.figures

    def test_no_finding_is_taken_away(self):
        """The rule that made it has asked how many draws are effective."""
        target = target_at(5.0)
        draws = po.sample(target, "importance", 500, seed=1)
        assert draws.findings == ()
        shape = Finding("warn", "weights_not_trusted", "It is in doubt.")
        told = sampled(target, replace(draws, findings=(shape,)))
        assert told.why == "weights that cannot be trusted"

    def test_prompts_without_draws_or_weight(self, world):
        target, _ = world
        draws = po.sample(target, "importance", 50, seed=1)
        first = draws.select(draws.completions.prompt_index_N == 0)
        assert sampled(target, first).why == "prompts without a draw"
        nothing = torch.full((100,), -math.inf).double()
        none = replace(draws, log_weight_N=nothing, findings=())
        assert sampled(target, none).why == "prompts without a draw of any weight"
        assert sampled(target, none).figures == {}

    def test_a_single_group_tells_no_error(self, world):
        target, _ = world
        settings = {"twist": "none", "replicates": 1}
        told = sampled(target, po.sample(target, "smc", 200, seed=1, **settings))
        for name in ("kl_to_prior", "mean_reward"):
            assert math.isfinite(told.figures[name].value)
            assert told.figures[name].standard_error == math.inf
        alone = sampled(target, po.sample(target, "rejection", 1, seed=1))
        assert alone.figures["mean_reward"].standard_error == math.inf

"""The rule for whether weights can be trusted, number by number, and what must never be printed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import posteriori as po
from posteriori.core import reliability
from posteriori.core.estimates import at_least_zero, combine, log_mean_weight
from posteriori.core.protocols import Scores
from posteriori.core.types import Estimate, Finding
from posteriori.diagnostics.collapse import collapse
from posteriori.diagnostics.control_variates import control_variate, log_shares
from posteriori.errors import EvidenceError

WORDS = ("<eos>", "a", "b", "c")


def estimate(value, error=0.01, kind="unbiased"):
    return Estimate(value, error, kind, 100)


class TestRule:
    def test_too_few_draws_with_weight_cannot_be_judged(self):
        assert reliability.fault(math.nan, 10.0, 10, 0.01) == reliability.NO_WEIGHT

    def test_a_heavy_tail_counts_where_few_are_effective(self):
        assert "pareto_k is 0.71" in reliability.fault(0.71, 499.0, 1000, 0.05)
        assert reliability.fault(0.71, 500.0, 1000, 0.05) == ""
        assert reliability.fault(0.66, 499.0, 1000, 0.05) == ""

    def test_a_large_error_counts_whatever_the_tail(self):
        assert "standard error" in reliability.fault(0.1, 900.0, 1000, 0.11)
        assert reliability.fault(0.1, 900.0, 1000, 0.10) == ""

    def test_what_may_have_been_missed_counts_by_itself(self):
        assert "missed" in reliability.fault(0.1, 900.0, 1000, 0.2, missed=0.11)
        assert reliability.fault(0.1, 900.0, 1000, math.hypot(0.09, 0.09), missed=0.09) == ""

    def test_the_rule_of_three(self):
        """Of 100 draws 3% may have been missed, at 29 times the mean weight."""
        found = reliability.missed(0.0, math.log(29.0), 100)
        assert 1.96 * found == pytest.approx(math.log1p(0.03 * 29), rel=1e-4)
        assert reliability.missed(0.0, -5.0, 100) == reliability.missed(0.0, 0.0, 100) > 0
        assert reliability.missed(-math.inf, 0.0, 100) == math.inf
        assert math.isfinite(reliability.missed(0.0, 1e300, 100))

    def test_a_largest_weight_that_is_known_takes_the_place_of_k_hat(self):
        """Its say is in what was missed, as long as that is little."""
        assert "pareto_k" in reliability.fault(0.9, 100.0, 1000, 0.05, missed=0.05)
        assert reliability.fault(0.9, 100.0, 1000, 0.05, missed=0.05, known=True) == ""
        assert "pareto_k" in reliability.fault(0.9, 100.0, 1000, 0.2, missed=0.11, known=True)

    def test_an_error_of_few_populations_is_large_beyond_chance(self):
        """sqrt(chi2(0.9; 15) / 15) = 1.22, and 1.44 at 3 degrees of freedom."""
        for populations, most in ((16, 0.1219), (4, 0.1443)):
            below, above = most - 1e-3, most + 1e-3
            fault = reliability.fault(0.1, 90.0, 100, below, populations=populations)
            assert fault == ""
            assert reliability.fault(0.1, 90.0, 100, above, populations=populations)
        assert reliability.fault(0.1, 90.0, 100, 0.11)

    def test_students_t_is_no_sign_of_anything(self):
        """Of two populations the interval is 6.5 times as wide; the weights are what they are."""
        weights = torch.zeros(100, dtype=torch.float64)
        wide = Estimate(0.0, 0.5, "lower_bound", 100, degrees_of_freedom=1.0)
        assert reliability.fault_of(weights, wide) == ""
        assert reliability.fault_of(weights, replace(wide, degrees_of_freedom=99.0))

    def test_which_figures_a_finding_is_about(self):
        found = Finding("warn", reliability.NOT_TRUSTED, "few draws carry them")
        waste = Finding("info", reliability.ONLY_A_BOUND, "at most that")
        figures = {n: estimate(1.0) for n in ("log_z", "tv", "elbo", "entropy", "wasted_nats")}
        told = reliability.judged(figures, [found, waste])
        assert {name: each.findings for name, each in told.items()} == {
            "log_z": (found,),
            "tv": (found,),
            "elbo": (),
            "entropy": (),
            "wasted_nats": (waste,),
        }
        trusted = {name for name, each in told.items() if reliability.trusted(name, each)}
        assert trusted == {"elbo", "entropy"}
        assert not reliability.trusted("log_z", figures["log_z"], [found])
        assert reliability.trusted("elbo", figures["elbo"], [found])
        assert not reliability.trusted("elbo", estimate(1.0, math.nan))

    def test_what_draws_have_missed_is_as_surprising_as_it_is_rare(self):
        surprise = torch.full((300,), 0.7, dtype=torch.float64)
        assert reliability.rarest(surprise) == pytest.approx(math.log(100))
        assert math.isnan(reliability.rarest(surprise + 40))

    def test_equal_weights_never_have_an_error_of_zero(self):
        assert log_mean_weight(torch.zeros(50)).standard_error > 0.02

    def test_whose_most_evidence_counts(self):
        """A stated bound for all; else a grade of three values is everybody's."""
        grade, other = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 5.0])
        scores = torch.linspace(0, 1, 9)
        both = [grade, other, scores]
        assert reliability.most_evidence(both, 7.0) == [7.0, 7.0, 7.0]
        assert reliability.most_evidence(both, None) == [5.0, 5.0, 1.0]
        assert reliability.most_evidence([other], 2.0) == [5.0]

    def test_gaps(self):
        dense = torch.linspace(0, 5, 11)
        assert not reliability.jumps(dense, 6.0)
        assert reliability.jumps(dense, 8.0)
        assert not reliability.beyond(dense, 6.0)
        assert reliability.beyond(dense, 6.1)

    def test_grades_on_one_scale(self):
        """Up to five values of all prompts, or tight clusters of them; scores are none."""
        stars = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
        assert reliability.most_evidence([stars[:4], stars], None) == [4.0, 4.0]
        assert reliability.most_evidence([torch.arange(5.0), torch.arange(6.0)], None) == [4.0, 5.0]
        noise = 0.03 * torch.linspace(-1, 1, 40)
        verdict = torch.cat([noise, noise + 4.0])
        assert reliability.most_evidence([noise, verdict], None) == [float(verdict.max())] * 2
        wide = torch.cat([10 * noise, noise + 4.0])
        assert reliability.most_evidence([10 * noise, wide], None)[0] == pytest.approx(0.3)
        assert not reliability.is_graded(
            torch.randn(200, generator=torch.Generator().manual_seed(1))
        )

    def test_a_level_at_the_top_is_ten_draws(self):
        weights = torch.zeros(100, dtype=torch.float64)
        weights[:9] = 4.0
        assert not reliability.share_the_largest(weights)
        weights[9] = 4.0 - 1e-5
        assert reliability.share_the_largest(weights)

    def test_what_the_priors_draws_show_of_a_policy_is_counted(self):
        """Half of the prior's draws are at 2, which the policy writes 0.01 times as often: 0.005 of
        its own at a distance of 2, which its draws have missed; at most 3 for each."""
        own, others = torch.zeros(100).double(), torch.tensor([0.0, 2.0] * 50).double()
        log_ratio = torch.tensor([0.0, math.log(0.01)] * 50).double()
        found = reliability.left_out(own, others, log_ratio)
        assert 1.96 * found == pytest.approx(0.01, rel=1e-4)
        rare = torch.zeros(100).double()
        rare[0] = 2.0
        found = reliability.left_out(own, rare, torch.full((100,), 5.0).double())
        assert 1.96 * found == pytest.approx(3 * 2 / 100, rel=1e-4)
        assert reliability.left_out(others, own + 1, log_ratio) == 0.0

    def test_populations_of_copies_are_worth_one_draw_each(self):
        random = torch.Generator().manual_seed(0)
        group = torch.arange(16).repeat_interleave(16)
        own = torch.randn(256, generator=random, dtype=torch.float64)
        copies = torch.randn(16, generator=random, dtype=torch.float64).repeat_interleave(16)
        equal = torch.zeros(256, dtype=torch.float64)
        assert reliability.fault_of_groups(equal, own, group) == ""
        assert "are worth 16" in reliability.fault_of_groups(equal, copies, group)

    def test_evidence_that_never_varies(self):
        same = [torch.zeros(5), torch.zeros(5)]
        assert reliability.never_varies(same, None).name == "evidence_never_varies"
        assert reliability.never_varies(same, 0.0) is None
        assert reliability.never_varies([torch.zeros(5), torch.ones(5)], None) is None

    def test_collapse(self):
        assert collapse(estimate(0.5), estimate(20.0)) == "stop"
        assert collapse(estimate(5.0), estimate(12.0)) == "warn"
        assert collapse(estimate(9.0), estimate(12.0)) is None
        assert collapse(estimate(0.4), estimate(1.0)) is None


class TestControlVariate:
    def test_the_known_mean_is_attained(self):
        c = control_variate(torch.tensor([0.5, -0.3, 0.2, -1.0, 0.6]).double())
        (log_n,) = log_shares([c])
        share = log_n.exp() / len(c)
        assert float(share.sum()) == pytest.approx(1.0)
        assert float((share * c).sum()) == pytest.approx(0.0, abs=1e-12)
        assert bool((share > 0).all())

    def test_one_sign_alone_leaves_all_the_same(self):
        (log_n,) = log_shares([torch.tensor([0.1, 0.2]).double()])
        assert not bool(log_n.any())


@pytest.fixture(scope="module")
def prior():
    return po.TabularLM.random(WORDS, 3, ("x", "y"), seed=1)


def target_at(prior, beta):
    def reward(completion_ids, **_):
        return [1.2 * y.count(1) - 0.4 * y.count(2) for y in completion_ids]

    return po.Target(prior, po.Reward(reward, beta=beta), prior.prompts, 3)


class TestImpossibleValues:
    def test_no_distance_is_below_zero_and_waste_is_no_more_than_was_paid(self, prior):
        other = po.TabularLM(prior.logits + 0.01, prior.prompts, WORDS)
        shaken = prior.logits + 0.05 * torch.randn(
            prior.logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
        )
        near = po.TabularLM(shaken, prior.prompts, WORDS)
        target, raw_below = target_at(prior, 40.0), 0
        for seed in range(12):
            for lm in (other, near):
                report = po.evaluate(target, lm, 60, seed=seed)
                for name in ("kl_to_target", "kl_to_prior", "wasted_nats", "kl_from_target"):
                    assert report[name].value >= 0, name
                    assert all(e.value >= 0 for e in report[name].per_prompt), name
                paid = report["kl_to_prior"]
                assert report["wasted_nats"].value <= paid.value + 1e-9
                raw_below += paid.kind == "consistent"
        assert raw_below, "chance takes some below zero, and these say that they are consistent"

    def test_a_figure_below_zero_is_given_as_zero(self):
        found = at_least_zero(combine([estimate(-0.3), estimate(0.1)], "unbiased"))
        assert (found.value, found.kind) == (0.0, "consistent")
        assert [e.value for e in found.per_prompt] == [0.0, 0.1]
        assert at_least_zero(estimate(0.2)) == estimate(0.2)

    def test_evidence_that_does_not_vary_has_log_z_of_exactly_that(self, prior):
        """E_m[prior/m] = 1 is known, so the mixture's Z of a constant is the constant."""

        def same(completion_ids, **_):
            return [0.7] * len(completion_ids)

        target = po.Target(prior, po.Reward(same, beta=1.0), prior.prompts, 3)
        other = po.TabularLM.random(WORDS, 3, ("x", "y"), seed=9)
        report = po.evaluate(target, other, 80)
        assert report["log_z"].value == pytest.approx(0.7, abs=1e-9)
        assert report["log_z"].standard_error > 0
        assert "evidence_never_varies" in {finding.name for finding in report.findings}

    def test_a_reward_over_beta_that_is_no_number_is_an_error(self, prior):
        def huge(completion_ids, **_):
            return [1e300 * (1 in y) for y in completion_ids]

        target = po.Target(prior, po.Reward(huge, beta=1e-20), prior.prompts, 3)
        for call in (
            lambda: po.sample(target, "importance", 60),
            lambda: po.evaluate(target, prior, 60),
            lambda: po.frontier(target, 100),
        ):
            with pytest.raises(EvidenceError, match="is no finite number"):
                call()

    def test_infinite_evidence_of_any_kind_is_an_error(self, prior):
        class Infinite:
            def score(self, completions, columns):
                log_e = torch.full((len(completions),), math.inf, dtype=torch.float64)
                return Scores(log_evidence=log_e, reward=log_e)

        target = po.Target(prior, Infinite(), prior.prompts, 3)
        with pytest.raises(EvidenceError, match="log-evidence of completion 0"):
            po.sample(target, "importance", 30)

    def test_an_interval_without_a_draw_that_has_evidence_is_the_exact_samplers(self, prior):
        """One outcome in about a hundred satisfies it, and ten draws of policy and prior do not."""

        def rare(completion_ids, **_):
            return [list(y) == [3, 3, 3] for y in completion_ids]

        target = po.Target(prior, po.Constraint(rare), prior.prompts, 3)
        exact = po.sample(target, "rejection", 30, seed=1)
        truth = float(po.exact(target).log_z.mean())
        reports = [po.evaluate(target, prior, 10, seed=seed, posterior=exact) for seed in range(6)]
        blind = [r for r in reports if r["pareto_k"].value != r["pareto_k"].value]
        assert blind
        for report in blind:
            low, high = report.interval("log_z")
            assert math.isfinite(low)
            assert math.isfinite(high)
            # Of rejection's own error, some 0.2 nats, five.
            assert low - 1.5 < truth < high + 1.5
            for name in ("kl_to_target", "kl_from_target"):
                assert not any(map(math.isnan, report.interval(name)))


def test_a_bound_where_nothing_can_be_trusted_is_what_was_paid(prior):
    """Wasted nats of kind upper_bound are not below the truth where no strength is trusted."""
    target = target_at(prior, 0.7)
    exact = po.exact(target)
    table = po.TabularLM(prior.logits + torch.tensor([0.0, 6.0, 0.0, 0.0]), prior.prompts, WORDS)
    truth = exact.evaluate(table)["wasted_nats"].mean()
    bounds = 0
    for seed in range(10):
        nats = po.evaluate(target, table, 40, seed=seed)["wasted_nats"]
        bounds += nats.kind == "upper_bound"
        if nats.kind == "upper_bound":
            assert nats.value > truth - 5 * nats.standard_error
    assert bounds


def test_samplers_judge_the_pool_behind_their_log_z(prior):
    """Evidence so sharp that a handful of the pool carries it."""
    target = target_at(prior, 0.03)
    for name in ("best_of_n", "soft_best_of_n", "qrs", "imh"):
        found = {finding.name for finding in po.sample(target, name, 20, seed=1).findings}
        assert reliability.LOG_Z_NOT_TRUSTED in found, name
    few = po.sample(target_at(prior, 5.0), "importance", 10, seed=1)
    assert reliability.NOT_TRUSTED in {finding.name for finding in few.findings}

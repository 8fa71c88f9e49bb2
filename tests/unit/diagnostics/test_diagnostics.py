"""Estimators against exact values, and the words that go with them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import WORDS, generator

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.reliability import NORMAL
from posteriori.core.seeds import generator as derived
from posteriori.diagnostics import diversity
from posteriori.diagnostics.diversity import distinct_n, unique_fraction
from posteriori.diagnostics.mixture import Mixture, Stratum
from posteriori.errors import ConfigError


def reward(completion_ids, **kwargs):
    return [0.8 * y.count(1) - 0.4 * len(y) for y in completion_ids]


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)


@pytest.fixture
def policy() -> po.TabularLM:
    return po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=9)


def strata(target, lm, num: int) -> tuple[Stratum, Stratum]:
    """Every outcome as often as its share of `num` draws says: an estimate without noise."""
    exact = po.exact(target)
    log_pi = exact.log_prob(lm)[0].detach()
    parts = []
    for log_q in (log_pi, exact.log_prior[0]):
        count = (log_q.exp() * num).round().long()
        rows = torch.arange(len(log_q)).repeat_interleave(count)
        parts.append(Stratum(log_pi[rows], exact.log_prior[0][rows], exact.log_evidence[0][rows]))
    return parts[0], parts[1]


def test_without_noise_the_mixture_gives_the_exact_figures(target, policy):
    num = 1_000_000
    mixture = Mixture(*strata(target, policy, num))
    exact = {name: value[0] for name, value in po.exact(target).evaluate(policy, num).items()}
    assert mixture.log_z().value == pytest.approx(exact["log_z"], abs=1e-4)
    assert mixture.kl_to_target().value == pytest.approx(exact["kl_to_target"], abs=1e-4)
    assert mixture.ess().value == pytest.approx(exact["ess"], rel=1e-3)


def test_the_prior_alone_is_importance_sampling(target):
    num = 1_000_000
    of_prior = strata(target, target.prior, num)[1]
    mixture = Mixture(of_prior, None)
    exact = {name: value[0] for name, value in po.exact(target).evaluate(target.prior, num).items()}
    assert mixture.log_z().value == pytest.approx(exact["log_z"], abs=1e-4)
    assert mixture.kl_to_target().value == pytest.approx(exact["kl_to_target"], abs=1e-4)
    assert mixture.ess().value == pytest.approx(exact["ess"], rel=1e-3)
    weights = (of_prior.log_evidence_n).exp()
    by_hand = float(weights.std() / weights.mean()) / math.sqrt(num)
    assert mixture.log_z().standard_error == pytest.approx(by_hand, rel=1e-3)


def test_standard_errors_are_those_of_the_delta_method(target, policy):
    """Worked out by sums over all outcomes: with m = (pi + prior) / 2, log Z moves with half of
    w = p~/(Z m) of either sample, E_pi[rho] with rho, and log E_m[(p*)^2 / (m pi)] besides; each
    but rho without what c = prior/m - 1, whose mean is known, foretells of it."""
    num = 1_000_000
    mixture = Mixture(*strata(target, policy, num))
    exact = po.exact(target)
    log_pi, log_prior = exact.log_prob(policy)[0].detach(), exact.log_prior[0]
    log_star = exact.log_posterior[0]
    log_m = torch.logaddexp(log_pi, log_prior) - math.log(2)
    w, rho = (log_star - log_m).exp(), log_star - log_pi
    moment = (2 * log_star - log_m - log_pi).exp()
    moment = moment / float((log_star - log_pi + log_star).exp().sum())

    def error(of_pi: torch.Tensor, of_prior: torch.Tensor) -> float:
        def variance(log_q, value):
            mean = (log_q.exp() * value).sum()
            return float((log_q.exp() * (value - mean) ** 2).sum())

        return math.sqrt((variance(log_pi, of_pi) + variance(log_prior, of_prior)) / num)

    c, m = (log_prior - log_m).expm1(), log_m.exp()

    def rest(value):
        return value - (m * value * c).sum() / (m * c * c).sum() * c

    of_z, of_moment = rest(w / 2), rest(w - moment / 2)
    assert error(of_z, of_z) < error(w / 2, w / 2)
    assert mixture.log_z().standard_error == pytest.approx(error(of_z, of_z), rel=1e-3)
    of_kl = error(of_z - rho, of_z)
    assert mixture.kl_to_target().standard_error == pytest.approx(of_kl, rel=1e-3)
    of_ess = error(of_moment, of_moment) * mixture.ess().value
    assert mixture.ess().standard_error == pytest.approx(of_ess, rel=1e-3)


def test_at_the_posterior_itself_only_what_was_missed_is_uncertain(target):
    exact = po.exact(target)
    log_star = exact.log_posterior[0]
    rows = torch.multinomial(log_star.exp(), 500, replacement=True, generator=generator())
    stratum = Stratum(log_star[rows], exact.log_prior[0][rows], exact.log_evidence[0][rows])
    mixture = Mixture(stratum, None)
    assert mixture.log_z().value == pytest.approx(exact.log_z[0])
    assert mixture.log_z().standard_error == pytest.approx(math.log1p(3 / 500) / 1.959964)
    assert mixture.kl_to_target().value == pytest.approx(0.0, abs=1e-12)
    assert mixture.ess().value == pytest.approx(500)
    assert mixture.pareto_k().value == -math.inf


def test_identities_hold_between_the_figures_of_one_report(target, policy):
    report = po.evaluate(target, policy, num_samples=300)
    kl = report["log_z"].value - report["elbo"].value
    assert report["kl_to_target"].value == pytest.approx(kl)
    elbo = report["mean_reward"].value / 0.5 - report["kl_to_prior"].value
    assert report["elbo"].value == pytest.approx(elbo)


def test_the_priors_draws_can_be_given_and_must_be_as_many(target, policy):
    seeded = derived(0, "evaluate", "prior")
    given = draw(target, target.prior, 50, seeded)
    report = po.evaluate(target, policy, 50, prior_draws=given)
    assert report == po.evaluate(target, policy, 50)
    with pytest.raises(ConfigError, match="prior_draws are 100, and num_samples=60"):
        po.evaluate(target, policy, 60, prior_draws=given)


def test_draws_of_a_report_are_the_policys_own(target, policy):
    report = po.evaluate(target, policy, num_samples=50)
    draws = report.draws
    assert len(draws) == 100
    torch.testing.assert_close(draws.log_proposal_N, policy.log_prob(draws.completions))
    torch.testing.assert_close(draws.log_prior_N, target.prior.log_prob(draws.completions))
    weight = draws.log_prior_N + draws.log_evidence_N - draws.log_proposal_N
    assert torch.equal(draws.log_weight, weight)
    assert draws.texts == draws.completions.texts
    assert draws.prompts == draws.completions.prompts
    assert draws.completion_ids == draws.completions.completion_ids


def jackknife(statistic, rows: list) -> float:
    left_out = [statistic(rows[:i] + rows[i + 1 :]) for i in range(len(rows))]
    return math.sqrt(
        (len(rows) - 1) / len(rows) * sum((v - np.mean(left_out)) ** 2 for v in left_out)
    )


def distinct_by_hand(rows: list[list[int]]) -> float:
    grams = [tuple(ids[i : i + 2]) for ids in rows for i in range(len(ids) - 1)]
    return len(set(grams)) / len(grams)


def unique_by_hand(rows: list[list[int]]) -> float:
    return len({tuple(ids) for ids in rows}) / len(rows)


@pytest.mark.parametrize("seed", range(3))
def test_diversity_and_its_jackknife_error_are_those_worked_out_by_hand(table, seed, monkeypatch):
    """And no less than the rule of three says of so many draws."""
    drawn = table.sample(["x"], 40, 3, generator(seed))
    rows = drawn.completion_ids
    for estimate in (distinct_n(drawn, 2), unique_fraction(drawn)):
        assert estimate.standard_error >= 3 / len(rows) / NORMAL - 1e-12
    monkeypatch.setattr(diversity, "RULE_OF_THREE", 0.0)
    for estimate, statistic in (
        (distinct_n(drawn, 2), distinct_by_hand),
        (unique_fraction(drawn), unique_by_hand),
    ):
        assert estimate.value == pytest.approx(statistic(rows))
        assert estimate.standard_error == pytest.approx(jackknife(statistic, rows))


def test_padding_makes_no_completion_another_one(table):
    """[1, 0] padded with zeros and [1, 0] alone are one completion; [1] followed by nothing is not
    followed by an end of sequence."""
    short = table.completions(["x"], [[1, 0], [1, 0]], 3)
    padded = table.completions(["x"], [[1, 0], [1, 0], [1, 2, 3]], 3).select([0, 1])
    assert unique_fraction(short).value == unique_fraction(padded).value == 0.5
    assert distinct_n(short).value == distinct_n(padded).value == 0.5


def test_completions_too_short_for_a_pair_have_no_distinct_pairs(table):
    assert math.isnan(distinct_n(table.completions(["x"], [[0], [0]], 3)).value)


def test_a_collapsed_policy_is_named(target, policy):
    with torch.no_grad():
        collapsed = replaced_logits(policy, policy.logits * 0 + torch.tensor([0.0, 30.0, 0.0, 0.0]))
    report = po.evaluate(target, collapsed, num_samples=200)
    named = {finding.name: finding for finding in report.findings}
    assert "collapsed" in named
    assert named["collapsed"].level == "stop"
    assert "the policy repeats itself" in str(named["collapsed"])
    assert "collapsed" not in {f.name for f in po.evaluate(target, policy, 200).findings}


def replaced_logits(table: po.TabularLM, logits: torch.Tensor) -> po.TabularLM:
    return po.TabularLM(logits, table.prompts, table.vocabulary)


def test_estimates_are_frozen(target, policy):
    estimate = po.evaluate(target, policy, num_samples=10)["log_z"]
    with pytest.raises(AttributeError):
        estimate.value = 0.0
    assert replace(estimate, value=1.0).value == 1.0

"""Wasted nats and the effective beta: exactly against brute force, by draws against exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import CASES, WORDS, OracleCase
from helpers import reward as oracle_reward
from scipy.optimize import minimize_scalar
from tables import as_table, off_the_curve, posterior_table, tabular_oracle, tilted

import posteriori as po
from posteriori.diagnostics.mixture import Mixture, Stratum
from posteriori.diagnostics.tilting import beta_of
from posteriori.diagnostics.wasted import wasted

BETA = 0.5


def reward(completion_ids, **kwargs):
    return [1.2 * y.count(1) - 0.4 * y.count(2) + 0.1 * len(y) for y in completion_ids]


def no_twos(completion_ids, **kwargs):
    return [2 not in y for y in completion_ids]


def random_table(seed: int, scale: float = 1.0) -> po.TabularLM:
    return po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=seed, scale=scale)


def target_of(*evidence) -> po.Target:
    prior = random_table(1)
    return po.Target(prior, evidence, prior.prompts, 3)


@pytest.fixture(scope="module")
def target() -> po.Target:
    return target_of(po.Reward(reward, beta=BETA))


def kl_at(exact, lm_log_prob, t: float) -> np.ndarray:
    """KL(pi, p*_t) of each prompt, by sums in numpy."""
    found = []
    for log_pi, log_prior, log_e in zip(
        lm_log_prob, exact.log_prior, exact.log_evidence, strict=True
    ):
        log_p = log_prior.numpy() + t * log_e.numpy()
        log_p = log_p - (log_p.max() + np.log(np.exp(log_p - log_p.max()).sum()))
        found.append(float((np.exp(log_pi.numpy()) * (log_pi.numpy() - log_p)).sum()))
    return np.array(found)


def brute_force(exact, lm) -> tuple[float, float]:
    """The least mean KL over 0 <= t <= 60, and its t."""
    log_pi = exact.log_prob(lm)
    found = minimize_scalar(
        lambda t: kl_at(exact, log_pi, t).mean(), bounds=(0, 60), options={"xatol": 1e-10}
    )
    return float(found.fun), float(found.x)


def check_exact(exact, lm, beta: float) -> None:
    figures = exact.evaluate(lm)
    least, t = brute_force(exact, lm)
    assert figures["wasted_nats"].mean() == pytest.approx(least, abs=1e-8)
    if t > 1e-4:
        # A parabola's floor is flat: eight digits of the value are four of the place.
        assert figures["effective_beta"][0] == pytest.approx(beta / t, rel=1e-4)
        of_each = kl_at(exact, exact.log_prob(lm), beta / figures["effective_beta"][0])
        np.testing.assert_allclose(figures["wasted_nats"], of_each, atol=1e-10)
    else:
        assert figures["effective_beta"][0] == math.inf


@pytest.mark.parametrize("seed", range(8))
def test_enumeration_finds_the_least_over_all_strengths(target, seed):
    check_exact(po.exact(target), random_table(10 + seed, scale=0.2 * (seed + 1)), BETA)


@pytest.mark.parametrize("name", CASES)
def test_enumeration_finds_it_on_the_oracle(name):
    case = OracleCase(name)
    exact = po.exact(case.target(BETA))
    expert = case.expert()
    check_exact(exact, expert, BETA)
    as_a_table = as_table(exact, exact.log_prob(expert))
    for beta in (2.0, 0.1):
        other = po.exact(tabular_oracle(name, oracle_reward, beta))
        check_exact(other, as_a_table, beta)
        check_exact(other, off_the_curve(exact), beta)


def test_some_of_these_policies_lie_inside_and_some_at_the_end(target):
    """So that both branches above are tested."""
    exact = po.exact(target)
    betas = [
        exact.evaluate(random_table(10 + seed, scale=0.2 * (seed + 1)))["effective_beta"][0]
        for seed in range(8)
    ]
    assert 2 <= sum(map(math.isinf, betas)) <= 6


def test_it_is_what_the_frontier_would_have_saved(target):
    """wasted = KL(pi, prior) - max_t (t E_pi[log e] - log Z(t))."""
    exact = po.exact(target)
    lm = off_the_curve(exact)
    figures = exact.evaluate(lm)
    t = BETA / figures["effective_beta"][0]
    log_z = np.array(
        [
            float((p + t * e).logsumexp(0))
            for p, e in zip(exact.log_prior, exact.log_evidence, strict=True)
        ]
    )
    saved = figures["kl_to_prior"] - t * figures["mean_reward"] / BETA + log_z
    np.testing.assert_allclose(figures["wasted_nats"], saved, atol=1e-10)
    assert 0.1 < figures["wasted_nats"].mean() < figures["kl_to_target"].mean()


@pytest.mark.parametrize("t", [0.25, 0.5, 1.0, 2.0])
def test_a_posterior_wastes_nothing_and_its_beta_is_found(target, t):
    exact = po.exact(target)
    figures = exact.evaluate(posterior_table(target, t))
    np.testing.assert_allclose(figures["wasted_nats"], 0.0, atol=1e-12)
    np.testing.assert_allclose(figures["effective_beta"], BETA / t, rtol=1e-6)
    if t == 1:
        of_target = exact.evaluate_target()
        np.testing.assert_allclose(of_target["wasted_nats"], 0.0, atol=1e-12)
        np.testing.assert_allclose(of_target["effective_beta"], BETA, rtol=1e-6)


def test_wrong_variants_are_not_what_enumeration_finds(target):
    """A t for each prompt finds too little, and without log Z there is no least at all."""
    exact = po.exact(target)
    lm = as_table(exact, [tilted(exact, 0.3)[0], tilted(exact, 2.0)[1]])
    found = exact.evaluate(lm)["wasted_nats"].mean()
    log_pi = exact.log_prob(lm)
    by_prompt = [
        minimize_scalar(lambda t, at=at: kl_at(exact, log_pi, t)[at], bounds=(0, 60)).fun
        for at in (0, 1)
    ]
    assert np.mean(by_prompt) < 1e-6
    assert found > 0.05
    assert found == pytest.approx(brute_force(exact, lm)[0], abs=1e-8)
    figures = exact.evaluate(lm)
    without_z = figures["kl_to_prior"].mean() - 60 * figures["mean_reward"].mean() / BETA
    assert without_z < found - 1


# By draws


def strata(exact, lm, at: int, num: int) -> tuple[Stratum, Stratum]:
    """Every outcome as often as its share of `num` draws says: an estimate without noise."""
    log_pi = exact.log_prob(lm)[at].detach()
    parts = []
    for log_q in (log_pi, exact.log_prior[at]):
        rows = torch.arange(len(log_q)).repeat_interleave((log_q.exp() * num).round().long())
        parts.append(Stratum(log_pi[rows], exact.log_prior[at][rows], exact.log_evidence[at][rows]))
    return parts[0], parts[1]


def noiseless(exact, lm, num: int):
    """Trimmed to one length, as all prompts have as many draws."""
    pairs = [strata(exact, lm, at, num) for at in (0, 1)]
    size = min(len(part.log_pi_n) for pair in pairs for part in pair)
    keep = torch.linspace(0, 1, size, dtype=torch.float64)
    mixtures = []
    for pair in pairs:
        cut = []
        for part in pair:
            at = (keep * (len(part.log_pi_n) - 1)).round().long()
            cut.append(Stratum(*(getattr(part, f)[at] for f in part.__dataclass_fields__)))
        mixtures.append(Mixture(*cut))
    return wasted(mixtures, BETA)


def test_without_noise_draws_give_the_exact_figures_and_the_errors_of_the_delta_method(target):
    num = 300_000
    exact = po.exact(target)
    lm = off_the_curve(exact)
    found, figures = noiseless(exact, lm, num), exact.evaluate(lm)
    assert found.nats.value == pytest.approx(figures["wasted_nats"].mean(), abs=1e-4)
    assert found.beta.value == pytest.approx(figures["effective_beta"][0], rel=1e-3)
    for at, each in enumerate(found.nats.per_prompt):
        assert each.value == pytest.approx(figures["wasted_nats"][at], abs=1e-3)
    t = BETA / figures["effective_beta"][0]
    of_nats, of_slope, curvature = [], [], []
    for at in (0, 1):
        log_pi, log_prior = exact.log_prob(lm)[at].detach(), exact.log_prior[at]
        log_star, log_e = tilted(exact, t)[at], exact.log_evidence[at]
        log_m = torch.logaddexp(log_pi, log_prior) - math.log(2)
        w, c = (log_star - log_m).exp(), (log_prior - log_m).expm1()
        mean_e = float((log_star.exp() * log_e).sum())
        rho = log_star - log_pi
        m_c = log_m.exp() * c / float((log_m.exp() * c * c).sum())
        # What prior/m, whose mean is known, foretells of a weight is no error.
        of_z, tilt = (
            value - (m_c * value).sum() * c for value in (w / 2, w * (log_e - mean_e) / 2)
        )
        for log_q, nats, slope in ((log_pi, of_z - rho, tilt - log_e), (log_prior, of_z, tilt)):
            of_nats.append(variance(log_q, nats))
            of_slope.append(variance(log_q, slope))
        curvature.append(variance(log_star, log_e))
    assert found.nats.standard_error == pytest.approx(math.sqrt(sum(of_nats) / num) / 2, rel=1e-2)
    error_of_t = math.sqrt(sum(of_slope) / num) / 2 / np.mean(curvature)
    assert found.beta.standard_error == pytest.approx(BETA / t**2 * error_of_t, rel=1e-2)


def variance(log_q: torch.Tensor, value: torch.Tensor) -> float:
    mean = (log_q.exp() * value).sum()
    return float((log_q.exp() * (value - mean) ** 2).sum())


@pytest.mark.parametrize(
    ("name", "t"), [("case_1", 0.25), ("case_1", 1.0), ("case_2", 0.5), ("case_2", 2.0)]
)
def test_draws_of_a_posterior_waste_nothing_within_their_error(name, t):
    """Six standard errors: 2e-9 for a normal z, times a hundred looks; the weights are bounded."""
    target = tabular_oracle(name, oracle_reward)
    lm = posterior_table(target, t)
    for seed in range(12):
        report = po.evaluate(target, lm, 1000, seed)
        nats, beta = report["wasted_nats"], report["effective_beta"]
        assert abs(nats.value) < 6 * nats.standard_error + 1e-9
        assert abs(beta.value - BETA / t) < 6 * beta.standard_error
        assert beta.standard_error < 0.2 * BETA / t
        assert not any(f.name.startswith("wasted") and f.level != "info" for f in report.findings)


def test_it_is_never_more_than_the_distance_to_the_target(target):
    for seed in range(5):
        report = po.evaluate(target, random_table(10 + seed), 300, seed)
        slack = 5 * report["kl_to_prior"].standard_error
        assert report["wasted_nats"].value <= report["kl_to_target"].value + 1e-9 or (
            math.isinf(report["effective_beta"].value)
            and report["wasted_nats"].value <= report["kl_to_target"].value + slack
        )


def test_the_prior_wastes_nothing(target):
    report = po.evaluate(target, target.prior, 300)
    assert report["wasted_nats"].value == 0.0
    assert report["wasted_nats"].standard_error == 0.0
    assert report["effective_beta"].value == math.inf


# Hard evidence


def test_a_constraint_alone_has_one_strength():
    rule = target_of(po.Constraint(no_twos))
    for lm, beta in ((posterior_table(rule), 1.0), (random_table(12), math.inf)):
        figures, report = po.exact(rule).evaluate(lm), po.evaluate(rule, lm, 300)
        assert figures["effective_beta"][0] == report["effective_beta"].value == beta
        wanted = figures["kl_to_target" if beta == 1 else "kl_to_prior"]
        np.testing.assert_allclose(figures["wasted_nats"], wanted, atol=1e-12)
        key = "kl_to_target" if beta == 1 else "kl_to_prior"
        assert report["wasted_nats"].value == pytest.approx(report[key].value)


# The end of the frontier


def best_alone(exact) -> po.TabularLM:
    """All mass where the evidence is largest."""
    log_pi = []
    for log_prior, log_e in zip(exact.log_prior, exact.log_evidence, strict=True):
        masked = log_prior.masked_fill(log_e < log_e.max(), -math.inf)
        log_pi.append(masked - masked.logsumexp(0))
    return as_table(exact, log_pi)


def test_reward_alone_is_the_posterior_at_beta_zero(target):
    exact = po.exact(target)
    figures = exact.evaluate(best_alone(exact))
    np.testing.assert_allclose(figures["wasted_nats"], 0.0, atol=1e-12)
    assert np.all(figures["effective_beta"] == 0.0)


def test_by_draws_the_end_is_a_bound_and_says_so(target):
    exact = po.exact(target)
    lm = best_alone(exact)
    report = po.evaluate(target, lm, 1000)
    nats, beta = report["wasted_nats"], report["effective_beta"]
    assert nats.kind == beta.kind == "upper_bound"
    assert "wasted_nats_is_a_bound" in {finding.name for finding in report.findings}
    at_beta = kl_at_posterior(exact, lm, BETA / beta.value)
    assert beta.value < BETA
    assert abs(nats.value - at_beta) < 6 * nats.standard_error


@pytest.mark.parametrize("beta", [0.5, 0.1])
@pytest.mark.parametrize("rank", [0, 3, 10, 30, 100])
@pytest.mark.parametrize("share", [1.0, 0.9])
def test_a_policy_on_one_outcome_that_the_prior_hardly_writes_is_not_misjudged(beta, rank, share):
    """Its own draws alone would call every one of these the best there is: within its error, or an
    upper bound, or not to be trusted and said to be."""
    prior = po.TabularLM.random(WORDS, 4, ("x",), seed=3)
    target = po.Target(prior, po.Reward(reward, beta=beta), prior.prompts, 4)
    exact = po.exact(target)
    mixed = (1 - share) * tilted(exact, 0.3)[0].exp()
    mixed[exact.reward[0].argsort(descending=True)[rank]] += share
    lm = as_table(exact, [mixed.log()])
    report, wanted = po.evaluate(target, lm, 2000), exact.evaluate(lm)["wasted_nats"][0]
    nats, named = report["wasted_nats"], {finding.name for finding in report.findings}
    near = 6 * nats.standard_error
    if "wasted_nats_is_a_bound" in named:
        assert nats.kind == "upper_bound"
        assert nats.value + near > wanted
    elif "wasted_nats_not_trusted" not in named:
        assert abs(nats.value - wanted) < near


@pytest.fixture(scope="module")
def rare() -> tuple[po.Target, po.TabularLM]:
    """Two outcomes with all the reward, each of which the prior writes once in thirteen thousand
    draws, and a policy that writes one of them alone."""
    prior = po.TabularLM.random(WORDS, 4, ("x",), seed=3)
    plain = po.exact(po.Target(prior, po.Reward(reward, beta=1.0), prior.prompts, 4))
    one, other = [
        plain.outcomes[0].completion_ids[at]
        for at in (plain.log_prior[0] + 9.5).abs().argsort()[:2].tolist()
    ]

    def two(completion_ids, **kwargs):
        return [4.0 * (y == one) + 4.0 * (y == other) for y in completion_ids]

    target = po.Target(prior, po.Reward(two, beta=0.5), prior.prompts, 4)
    at = plain.outcomes[0].completion_ids.index(other)
    log_pi = torch.full_like(plain.log_prior[0], -math.inf)
    log_pi[at] = 0.0
    return target, as_table(po.exact(target), [log_pi])


def bounded_from_above(target, lm) -> bool:
    wanted = po.exact(target).evaluate(lm)["wasted_nats"][0]
    nats = po.evaluate(target, lm, 500)["wasted_nats"]
    assert wanted > 0.5
    return nats.kind == "upper_bound" and nats.value + 6 * nats.standard_error > wanted


def test_what_nobody_has_drawn_is_not_ruled_out(rare):
    assert bounded_from_above(*rare)


def test_without_a_look_at_the_priors_draws_it_would_be(rare, monkeypatch):
    """The mutant: on its own draws the policy is the best there is, and wastes nothing."""
    monkeypatch.setattr("posteriori.diagnostics.wasted._UNSEEN", 1.0)
    assert not bounded_from_above(*rare)


def kl_at_posterior(exact, lm, t: float) -> float:
    total = 0.0
    for log_pi, log_star in zip(exact.log_prob(lm), tilted(exact, t), strict=True):
        on = ~log_pi.isneginf()
        total += float((log_pi[on].exp() * (log_pi[on] - log_star[on])).sum())
    return total / 2


# Which beta


def test_the_unit_is_the_beta_that_all_rewards_share(target):
    twice = target_of(po.Reward(reward, beta=0.3), po.Reward(reward, beta=0.3))
    mixed = target_of(po.Reward(reward, beta=0.3), po.Reward(reward, beta=0.4))
    assert beta_of(target) == BETA
    assert beta_of(twice) == 0.3
    assert beta_of(mixed) == beta_of(target_of(po.Constraint(no_twos))) == 1.0
    assert beta_of(target.tempered(2.0)) == 0.25
    figures = po.exact(target.tempered(2.0)).evaluate(posterior_table(target))
    np.testing.assert_allclose(figures["effective_beta"], BETA, rtol=1e-6)
    assert beta_of(target.tempered(0.0)) == math.inf
    assert po.evaluate(target.tempered(0.0), target.prior, 50)["wasted_nats"].value == 0.0

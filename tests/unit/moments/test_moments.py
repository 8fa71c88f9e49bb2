"""Moments: lambda by enumeration and by draws, its standard error, and what cannot be had."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from helpers import WORDS, generator, has_c, reward
from scipy.stats import chi2

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError
from posteriori.moments.dual import Dual
from posteriori.moments.moments import Moments

A, B = 1, 2


def has_a(completion_ids, **kwargs):
    return [A in y for y in completion_ids]


def has_b(completion_ids, **kwargs):
    return [B in y for y in completion_ids]


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


def never(completions, **kwargs):
    return [False] * len(completions)


def target(table, moments, *others) -> po.Target:
    return po.Target(table, [*others, moments], table.prompts, 3)


def means(exact: po.Exact, feature) -> np.ndarray:
    """E_p*(.|c)[phi] of each prompt, summed over all outcomes."""
    return np.array(
        [
            float(log_p.exp() @ torch.tensor(feature(y.completion_ids), dtype=torch.float64))
            for log_p, y in zip(exact.log_posterior, exact.outcomes, strict=True)
        ]
    )


def test_one_lambda_for_all_prompts_has_the_mean_over_prompts(table):
    moments = po.Moments({"has a": (has_a, 0.7), "length": (length, 2.2)})
    exact = po.exact(target(table, moments))
    assert means(exact, has_a).mean() == pytest.approx(0.7, abs=1e-9)
    assert means(exact, length).mean() == pytest.approx(2.2, abs=1e-9)
    assert np.ptp(means(exact, has_a)) > 0.01, "prompts differ"
    assert moments.fitted.lambda_PK.shape == (1, 2)


def test_one_lambda_a_prompt_has_the_mean_of_each(table):
    moments = po.Moments({"has a": (has_a, 0.7), "length": (length, 2.2)}, per_prompt=True)
    exact = po.exact(target(table, moments))
    np.testing.assert_allclose(means(exact, has_a), 0.7, atol=1e-9)
    np.testing.assert_allclose(means(exact, length), 2.2, atol=1e-9)
    both = moments.fitted.lambda_["length"].per_prompt
    assert [each.value for each in both] == moments.fitted.lambda_PK[:, 1].tolist()


def test_no_distribution_with_these_means_is_nearer_to_the_prior(table):
    """Along any direction that keeps the means, KL to the prior grows from its minimum at p*."""
    exact = po.exact(target(table, po.Moments({"has a": (has_a, 0.7)}, per_prompt=True)))
    log_p, log_prior = exact.log_posterior[0], exact.log_prior[0]
    phi = torch.tensor(has_a(exact.outcomes[0].completion_ids), dtype=torch.float64)
    kept = torch.stack([torch.ones_like(phi), phi], dim=1)
    random = torch.randn(len(phi), dtype=torch.float64, generator=generator(1))
    direction = random - kept @ torch.linalg.lstsq(kept, random).solution
    gradient = float((direction * (log_p - log_prior)).sum())
    assert abs(gradient) < 1e-10


def test_hard_evidence_beside_moments_stays_hard(table):
    moments = po.Moments({"has a": (has_a, 0.4), "length": (length, 2.6)})
    others = [po.Constraint(has_c), po.Reward(reward, beta=0.7)]
    wanted = target(table, moments, *others)
    exact = po.exact(wanted)
    for log_p, y in zip(exact.log_posterior, exact.outcomes, strict=True):
        allowed = torch.tensor(has_c(y.completion_ids))
        assert bool(log_p[~allowed].isneginf().all())
    assert means(exact, has_a).mean() == pytest.approx(0.4, abs=1e-9)
    assert means(exact, length).mean() == pytest.approx(2.6, abs=1e-9)
    assert all(3 in ids for ids in po.sample(wanted, "importance", 50).resample(20).completion_ids)


def test_a_tempered_target_has_the_same_lambda(table):
    moments = po.Moments({"has a": (has_a, 0.7)})
    whole = target(table, moments)
    drawn = table.sample(table.prompts, 30, 3, generator())
    half = whole.tempered(0.5).score(drawn).log_evidence
    torch.testing.assert_close(half, 0.5 * whole.score(drawn).log_evidence)
    assert moments.target is whole


def naive_error(dual: Dual, lambda_K):
    """A wrong one: as if the draws were the target's own."""
    return (dual.covariance(lambda_K).diagonal() * dual.log_w_PN.numel()).rsqrt()


def z_scores(table, monkeypatch, error=None) -> np.ndarray:
    """(lambda - the exact one) / its standard error over 40 seeds, at a strong tilt."""
    settings = {"has a": (has_a, 0.97)}
    exact = po.Moments(settings, method="enumerate")
    truth = float(target(table, exact).evidence[0].fitted.lambda_PK)
    if error:
        monkeypatch.setattr(Dual, "sandwich", error)
    found = []
    for seed in range(40):
        moments = po.Moments(settings, method="draws", num_samples=2000, seed=seed)
        target(table, moments)
        estimate = moments.fitted.lambda_["has a"]
        assert moments.fitted.rounds == 1
        found.append((estimate.value - truth) / estimate.standard_error)
    return np.array(found)


def test_the_standard_error_is_as_large_as_the_error(table, monkeypatch):
    """z^2 sums to a chi-squared of 40 degrees: outside these bounds once in 1e6."""
    low, high = chi2.ppf([5e-7, 1 - 5e-7], 40)
    assert low < (z_scores(table, monkeypatch) ** 2).sum() < high
    assert not low < (z_scores(table, monkeypatch, naive_error) ** 2).sum() < high


def number_of_a(completion_ids, **kwargs):
    return [y.count(A) for y in completion_ids]


@pytest.mark.parametrize("sampler", [None, "annealed"])
def test_draws_move_where_the_priors_do_not_reach(sampler):
    """Completions with 2 or 3 "a" have a prior probability of 0.2%: weighted, those draws of the
    prior's are too few to tell lambda."""
    logits = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=1).logits.clone()
    logits[..., A] -= 2.0
    table = po.TabularLM(logits, ("x", "y"), WORDS[:4])
    settings = {"number of a": (number_of_a, 1.2)}
    moments = po.Moments(settings, method="draws", num_samples=2000)
    wanted = target(table, moments)
    exact = po.Moments(settings, method="enumerate")
    target(table, exact)
    fitted = po.fit_moments(wanted, sampler=sampler)
    estimate, truth = fitted.lambda_["number of a"], float(exact.fitted.lambda_PK)
    assert 1 < fitted.rounds < 10
    assert fitted.findings == ()
    # Over 16 populations: 12 standard errors of a t with 15 degrees of freedom, once in 2e8.
    assert abs(estimate.value - truth) < 12 * estimate.standard_error
    assert estimate.standard_error < 0.05 * truth


def test_attained_means_on_fresh_draws(table):
    """5.5 standard errors of a normal: a false alarm in 2.6e7 each."""
    moments = po.Moments({"has a": (has_a, 0.7), "length": (length, 2.2)}, per_prompt=True)
    wanted = target(table, moments)
    for sampler in ("importance", "imh"):
        attained = moments.attained(po.sample(wanted, sampler, 3000, seed=5))
        for name, mean in (("has a", 0.7), ("length", 2.2)):
            for each in attained[name].per_prompt:
                assert abs(each.value - mean) < 5.5 * each.standard_error
                assert each.standard_error < 0.05
    before = moments.attained(table.sample(table.prompts, 3000, 3, generator(5)))
    exact = means(po.exact(po.Target(table, [], table.prompts, 3)), has_a)
    for each, mean in zip(before["has a"].per_prompt, exact, strict=True):
        assert abs(each.value - mean) < 5.5 * each.standard_error


def test_a_feature_is_asked_once_a_draw_and_a_seed_gives_the_same(table):
    asked = []

    def counted(completion_ids, **kwargs):
        asked.append(len(completion_ids))
        return has_a(completion_ids)

    def fitted(seed):
        moments = po.Moments({"a": (counted, 0.7)}, method="draws", num_samples=50, seed=seed)
        target(table, moments)
        return moments.fitted.lambda_PK

    first = fitted(0)
    assert sum(asked) == 100
    assert torch.equal(first, fitted(0))
    assert not torch.equal(first, fitted(1))


def test_it_is_told_in_the_log_and_what_is_uncertain_is_a_finding(table, caplog):
    moments = po.Moments({"has a": (has_a, 0.7)}, method="draws", num_samples=20)
    target(table, moments)
    with caplog.at_level(logging.INFO, "posteriori"):
        (finding,) = moments.fitted.findings
    assert finding.name == "lambda_badly_determined"
    assert "standard error" in finding.message
    assert "moment 'has a' = 0.7: lambda = " in caplog.text
    assert finding.message in caplog.text


def test_a_frozen_lambda_goes_to_other_targets(table):
    shared = po.Moments({"has a": (has_a, 0.7)})
    own = po.Moments({"has a": (has_a, 0.7)}, per_prompt=True)
    drawn = table.sample(table.prompts, 20, 3, generator())
    for moments in (shared, own):
        whole = target(table, moments)
        frozen = po.Target(table, [moments.frozen()], ["y", "x"], 3)
        assert torch.equal(whole.score(drawn).log_evidence, frozen.score(drawn).log_evidence)
    other = po.TabularLM.random(WORDS[:4], 3, ("z",), seed=1)
    fresh = other.sample(["z"], 5, 3, generator())
    assert len(po.Target(other, [shared.frozen()], ["z"], 3).score(fresh).log_evidence) == 5
    with pytest.raises(EvidenceError, match="the prompt 'z' has no lambda of its own"):
        po.Target(other, [own.frozen()], ["z"], 3).score(fresh)


def test_features_see_columns(table):
    def is_it(completion_ids, letter, **kwargs):
        return [x in y for x, y in zip(letter, completion_ids, strict=True)]

    moments = po.Moments({"letter": (is_it, 0.6)}, per_prompt=True)
    exact = po.exact(po.Target(table, moments, table.prompts, 3, {"letter": [A, B]}))
    assert means(exact, has_a)[0] == pytest.approx(0.6, abs=1e-9)
    assert means(exact, has_b)[1] == pytest.approx(0.6, abs=1e-9)


def sum_of_both(completion_ids, **kwargs):
    return [2.0 * (A in y) - (B in y) + 3 for y in completion_ids]


def both(completion_ids, **kwargs):
    return [A in y and B in y for y in completion_ids]


IMPOSSIBLE = {
    "never true": ({"n": (never, 0.5)}, r"'n' is 0 \(never true\) for all"),
    "above": (
        {"length": (length, 3.5)},
        r"mean of 'length' of 3.5(: it lies between [\d.]+ and 3| all end at 3)",
    ),
    "always": (
        {"has a": (has_a, 1.0)},
        r"between [\d.]+ and 1, and at an end lambda would be infinite",
    ),
    "collinear": (
        {"a": (has_a, 0.5), "b": (has_b, 0.5), "sum": (sum_of_both, 3.5)},
        "the features 'a', 'b', 'sum' are collinear",
    ),
    "together": (
        {"a": (has_a, 0.9), "b": (has_b, 0.9), "both": (both, 0.2)},
        "(has all these means at once|they cannot be had at once)",
    ),
    "infinite": (
        {"f": (lambda completions, **kw: [-math.inf] * len(completions), 0.5)},
        "feature 'f': it returned -inf for completion 0",
    ),
    "none": (
        {"f": (lambda completions, **kw: [None] * len(completions), 0.5)},
        "feature 'f': it returned None for completion 0",
    ),
}


@pytest.mark.parametrize("method", ["enumerate", "draws"])
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_had_is_an_error_that_says_so(table, name, method):
    moments, message = IMPOSSIBLE[name]
    wanted = target(table, po.Moments(moments, method=method, num_samples=1000))
    with pytest.raises(EvidenceError, match=message) as caught:
        po.evaluate(wanted, table, num_samples=10)
    assert caught.value.hint


def test_evidence_that_rules_everything_out_is_named(table):
    wanted = target(table, po.Moments({"a": (has_a, 0.5)}, per_prompt=True), po.Constraint(never))
    with pytest.raises(EvidenceError, match="prompt 'x': the other evidence rules out all outc"):
        po.exact(wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "there is none"),
        (({"a": has_a},), "'a' is no moment"),
        (({"a": (0.5, has_a)},), "'a' is no moment"),
        (({"a": (has_a, "half")},), "the wanted mean of 'a' is 'half'"),
        (({"a": (has_a, math.nan)},), "the wanted mean of 'a' is nan"),
        (({"a": (has_a, True)},), "the wanted mean of 'a' is True"),
    ],
)
def test_what_is_no_moment(arguments, message):
    with pytest.raises(ConfigError, match=message):
        po.Moments(*arguments)


def test_settings_that_are_wrong(table):
    with pytest.raises(ConfigError, match="unknown method 'exact'"):
        po.Moments({"a": (has_a, 0.5)}, method="exact")
    with pytest.raises(ConfigError, match="num_samples=1"):
        po.Moments({"a": (has_a, 0.5)}, num_samples=1)
    with pytest.raises(ConfigError, match="the target has no Moments"):
        po.fit_moments(po.Target(table, [], table.prompts, 3))


def test_moments_belong_to_one_target(table):
    moments = po.Moments({"a": (has_a, 0.5)})
    with pytest.raises(ConfigError, match="these moments are of no target yet"):
        _ = moments.fitted
    first = target(table, moments)
    assert po.Target(table, first.evidence, table.prompts, 3).evidence[0] is moments
    with pytest.raises(ConfigError, match="belong to another target already"):
        target(table, moments, po.Reward(reward, beta=1.0))
    with pytest.raises(ConfigError, match="one set of moments"):
        target(table, Moments({"b": (has_b, 0.5)}), Moments({"c": (has_c, 0.5)}))


def test_fit_moments_takes_a_nearer_proposal(table):
    moments = po.Moments({"length": (length, 2.9)}, method="draws", num_samples=400)
    wanted = target(table, moments)
    near = po.fit(wanted, "rloo", steps=60, num_samples=32, learning_rate=0.1).policy
    first = moments.fitted
    second = po.fit_moments(wanted, proposal=near)
    assert moments.fitted is second
    assert second.effective_draws > first.effective_draws
    exact = Moments({"length": (length, 2.9)})
    target(table, exact)
    estimate = second.lambda_["length"]
    assert abs(estimate.value - float(exact.fitted.lambda_PK)) < 5.5 * estimate.standard_error

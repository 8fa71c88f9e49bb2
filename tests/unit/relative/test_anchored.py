"""Anchored rewards by enumeration: flat over what is good, and the old target below."""

from __future__ import annotations

import math

import pytest
import torch

import posteriori as po
from posteriori import testing
from posteriori.errors import EvidenceError

PROMPTS, WORDS = ["x", "y"], ["<eos>", "a", "b"]


def grade(completions, **_):
    """1 for an a alone, 0.5 per a otherwise, 0 without."""
    return [1.0 if text.split() == ["a"] else 0.5 * min(1, text.count("a")) for text in completions]


def has_a(completions, **_):
    return [float("a" in text) for text in completions]


@pytest.fixture
def prior() -> po.TabularLM:
    return po.TabularLM.random(WORDS, 3, PROMPTS, seed=5)


def by_hand(exact: po.Exact, beta: float, threshold: float) -> list[torch.Tensor]:
    """log p*, outcome by outcome, from the paper's algorithm."""
    found = []
    for log_prior, reward in zip(exact.log_prior, exact.reward, strict=True):
        rows = list(zip(log_prior.tolist(), reward.tolist(), strict=True))
        anchor = max((row for row in rows if row[1] >= threshold), key=lambda row: row[0])
        log_p = []
        for log_p0, r in rows:
            augmented = anchor[1] + beta * (anchor[0] - log_p0) if r >= threshold else r
            log_p.append(log_p0 + augmented / beta)
        log_p = torch.tensor(log_p, dtype=torch.float64)
        found.append(log_p - log_p.logsumexp(0))
    return found


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(("fn", "threshold"), [(has_a, 1.0), (grade, 0.5)])
def test_the_target_is_the_papers(prior, fn, beta, threshold):
    exact = po.exact(po.Target(prior, po.Anchored(fn, beta, threshold=threshold), PROMPTS, 3))
    for found, wanted in zip(exact.log_posterior, by_hand(exact, beta, threshold), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


def test_it_is_flat_where_a_plain_reward_collapses(prior):
    beta = 0.05
    exact = po.exact(po.Target(prior, po.Anchored(has_a, beta, threshold=1.0), PROMPTS, 3))
    plain = po.exact(po.Target(prior, po.Reward(has_a, beta), PROMPTS, 3))
    for at in range(len(PROMPTS)):
        good = exact.reward[at] == 1.0
        flat, prefers = exact.log_posterior[at][good], plain.log_posterior[at][good]
        assert float(flat.max() - flat.min()) < 1e-8
        assert float(prefers.max() - prefers.min()) > 1.0
        # Every good answer has the anchor's odds against what is below.
        below = exact.log_posterior[at][~good].logsumexp(0)
        anchor = plain.log_posterior[at][good].max()
        wanted = anchor - plain.log_posterior[at][~good].logsumexp(0)
        torch.testing.assert_close(flat[0] - below, wanted, rtol=0, atol=1e-8)


def test_mutants_are_not_flat(prior):
    """With the prior's log-prob added in place of taken away, or with the reward's own level."""
    exact = po.exact(po.Target(prior, po.Anchored(grade, 0.5, threshold=0.5), ["x"], 3))
    good = exact.reward[0] >= 0.5
    log_prior = exact.log_prior[0][good]
    level = float((exact.log_prior[0] + exact.log_evidence[0])[good][0])
    right = log_prior + exact.log_evidence[0][good]
    assert float(right.max() - right.min()) < 1e-8
    for wrong in (2 * log_prior + level, exact.reward[0][good] / 0.5 + level):
        assert float(wrong.max() - wrong.min()) > 0.1


def test_draws_find_the_same_anchor(prior):
    """The likeliest good outcome has a prior probability above 5%: 2,000 draws miss it once in
    10^44."""
    drawn = po.Anchored(has_a, 0.5, threshold=1.0, method="draws", num_samples=2000, seed=1)
    one = po.exact(po.Target(prior, drawn, PROMPTS, 3))
    two = po.exact(po.Target(prior, po.Anchored(has_a, 0.5, threshold=1.0), PROMPTS, 3))
    for mine, theirs in zip(one.log_posterior, two.log_posterior, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_beta_can_be_changed(prior):
    target = po.Target(prior, po.Anchored(has_a, threshold=1.0), PROMPTS, 3)
    again = po.exact(target.with_beta(0.3))
    for found, wanted in zip(again.log_posterior, by_hand(again, 0.3, 1.0), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


def test_without_an_anchor_it_says_so(prior):
    target = po.Target(prior, po.Anchored(has_a, 0.5, threshold=2.0), PROMPTS, 3)
    with pytest.raises(EvidenceError, match=r"none of 15 outcomes.*the largest is 1"):
        po.exact(target)
    with pytest.raises(po.PosterioriError, match="threshold=nan"):
        po.Anchored(has_a, 0.5, threshold=math.nan)


def test_it_keeps_the_contract_of_evidence():
    testing.check_evidence(po.Anchored(has_a, 0.5, threshold=1.0))


def test_a_fit_spreads_over_the_good_ones(prior):
    target = po.Target(prior, po.Anchored(has_a, 0.2, threshold=1.0), PROMPTS, 3)
    fitted = po.fit(target, "rloo", steps=300, num_samples=64, learning_rate=0.1, seed=0)
    exact = po.exact(target)
    reached = exact.evaluate(fitted.policy)
    assert reached["kl_to_target"].max() < 0.05
    assert (reached["entropy"] > exact.evaluate_target()["entropy"] - 0.1).all()

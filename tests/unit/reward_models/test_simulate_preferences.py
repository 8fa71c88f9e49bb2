"""Simulated pairs: their labels follow Bradley-Terry, their texts can be read."""

from __future__ import annotations

import collections
import math

import pytest
import torch
from scipy import stats

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError, SamplingError
from posteriori.reward_models.labelled_pairs import read_labelled_pairs
from posteriori.reward_models.simulate_preferences import best_accuracy

FALSE_ALARM = 1e-6
WORDS = ("<eos>", "a", "b")


def utility(completions, **kwargs):
    worth = {"": 0.3, "a": -0.7, "b": 1.1, "a a": 0.2, "a b": -1.3, "b a": 0.9, "b b": 0.4}
    return [worth[text] for text in completions]


@pytest.fixture(scope="module")
def target() -> po.Target:
    lm = po.TabularLM.random(WORDS, 2, ("x", "y", "z"), seed=3)
    return po.Target(lm, po.Reward(utility, beta=0.7), lm.prompts, 2)


def upsets(rows, scale: float, noise: float) -> float:
    """z of the number of pairs whose label says what the utility says, if it were Bradley-Terry at
    that scale and noise."""
    gap = torch.tensor([r["chosen_utility"] - r["rejected_utility"] for r in rows]).double()
    p = noise + (1 - 2 * noise) * (gap.abs() / scale).sigmoid()
    agree = (gap > 0).double().sum()
    return float((agree - p.sum()) / (p * (1 - p)).sum().sqrt())


@pytest.mark.parametrize(("scale", "noise"), [(1.0, 0.0), (0.4, 0.0), (0.4, 0.2)])
def test_labels_follow_bradley_terry(target, scale, noise):
    """Given the two utilities a label is Bernoulli, so the count is normal: |z| below the quantile
    of 1e-6. 6000 pairs tell labels at twice the scale, or without the noise, from these."""
    rows = po.simulate_preferences(target, 6000, scale=scale, noise=noise, seed=1)
    limit = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(upsets(rows, scale, noise)) < limit
    assert abs(upsets(rows, 2 * scale, noise)) > limit
    assert abs(upsets(rows, scale, noise + 0.1)) > limit


def test_pairs_are_the_priors_draws_given_that_they_differ(target):
    """Chi-squared of unordered pairs of texts against pi(y1) pi(y2) on what can be a pair."""
    rows = po.simulate_preferences(target, 9000, seed=2)
    exact = po.exact(target)
    for at, prompt in enumerate(target.prompts):
        law = dict(zip(exact.outcomes[at].texts, exact.log_prior[at].exp().tolist(), strict=True))
        found = collections.Counter(
            tuple(sorted((r["chosen"], r["rejected"]))) for r in rows if r["prompt"] == prompt
        )
        kinds = [(a, b) for a in law for b in law if a < b and a and b]
        share = torch.tensor([law[a] * law[b] for a, b in kinds], dtype=torch.float64)
        expected = (share / share.sum() * sum(found.values())).tolist()
        assert sum(found.values()) == 3000
        assert min(expected) > 5
        p = stats.chisquare([found[kind] for kind in kinds], expected).pvalue
        assert p > FALSE_ALARM


def test_rows_are_pairs_that_can_be_read(target):
    rows = po.simulate_preferences(target, 100, seed=3)
    assert len(read_labelled_pairs(rows)) == 100
    counts = collections.Counter(row["prompt"] for row in rows)
    assert sorted(counts.values()) == [33, 33, 34]
    for row in rows:
        assert row["chosen"] != row["rejected"]
        assert [row["chosen_utility"], row["rejected_utility"]] == utility(
            [row["chosen"], row["rejected"]]
        )


def test_are_a_function_of_the_seed(target):
    rows = po.simulate_preferences(target, 50, seed=4)
    assert rows == po.simulate_preferences(target, 50, seed=4)
    assert rows != po.simulate_preferences(target, 50, seed=5)


def test_conversations_are_answered_by_messages(gpt2):
    gpt2.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    chat = [{"role": "user", "content": "a b"}]
    target = po.Target(gpt2, po.Reward(lengths, beta=1.0), [chat], 3)
    row = po.simulate_preferences(target, 2)[0]
    assert row["prompt"] == chat
    assert row["chosen"][0]["role"] == "assistant"
    assert isinstance(read_labelled_pairs([row])[0].chosen, str)


def lengths(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def test_the_best_accuracy_is_the_hand_value():
    rows = [
        {"chosen_utility": 1.0, "rejected_utility": 0.0},
        {"chosen_utility": 0.0, "rejected_utility": 0.5},
    ]
    sure = [1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(-1.0))]
    assert best_accuracy(rows, scale=0.5) == pytest.approx(sum(sure) / 2)
    assert best_accuracy(rows, scale=0.5, noise=0.1) == pytest.approx(0.1 + 0.8 * sum(sure) / 2)


@pytest.mark.parametrize(
    "settings", [{"num_pairs": 0}, {"scale": 0.0}, {"scale": math.nan}, {"noise": 0.5}]
)
def test_settings_out_of_range_are_refused(target, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        po.simulate_preferences(target, **{"num_pairs": 5, **settings})


def test_a_utility_that_is_not_finite_is_refused(target):
    hard = po.Reward(lambda completions, **_: [-math.inf for _ in completions], beta=1.0)
    with pytest.raises(EvidenceError, match=r"the utility of .* is -inf"):
        po.simulate_preferences(po.Target(target.prior, hard, ["x"], 2), 5)


def test_a_prior_that_says_one_thing_only_is_an_error():
    logits = torch.full((1, 3, 3), -1e9)
    logits[..., 1] = 0.0
    lm = po.TabularLM(logits, ["x"], WORDS)
    with pytest.raises(SamplingError, match="gave 0 of 5 pairs"):
        po.simulate_preferences(po.Target(lm, po.Reward(utility, beta=1.0), ["x"], 2), 5)

"""Perplexity, truncation, reward quantiles and self-BLEU of a policy's draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import WORDS, generator, tiny_lm
from sacrebleu.metrics.bleu import BLEU

import posteriori as po
from posteriori.diagnostics import diversity
from posteriori.diagnostics.diversity import (
    GROUPS,
    TOGETHER,
    self_bleu,
    self_bleus,
    unique_fraction,
)
from posteriori.diagnostics.evaluate.perplexity import perplexity
from posteriori.diagnostics.quantiles import QUANTILES, exact_quantile, quantile


def reward(completion_ids, **kwargs):
    return [0.8 * y.count(1) - 0.4 * len(y) for y in completion_ids]


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)


def test_enumerated_figures_are_the_sums_that_they_are_said_to_be(target):
    policy = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=9)
    exact = po.exact(target)
    figures = exact.evaluate(policy)
    for at, outcomes in enumerate(exact.outcomes):
        pi = exact.log_prob(policy)[at].detach().exp().numpy()
        lengths = np.array([len(ids) for ids in outcomes.completion_ids])
        nll = -(pi * exact.log_prior[at].numpy()).sum() / (pi * lengths).sum()
        assert figures["perplexity"][at] == pytest.approx(math.exp(nll))
        cut = np.array([ids[-1] != 0 for ids in outcomes.completion_ids])
        assert figures["truncated"][at] == pytest.approx(pi[cut].sum())
        rewards = np.array(reward(outcomes.completion_ids))
        for name, level in QUANTILES.items():
            value = figures[name][at]
            assert pi[rewards < value - 1e-9].sum() < level + 1e-9
            assert pi[rewards <= value + 1e-9].sum() > level - 1e-9


def test_perplexity_counts_tokens_not_completions():
    """ln 2 over one token and 3 ln 4 over three: exp(7 ln 2 / 4), not the mean of 2 and 4."""
    log_prior = torch.tensor([-math.log(2), -3 * math.log(4)], dtype=torch.float64)
    found = perplexity(log_prior, torch.tensor([1, 3]))
    assert found.value == pytest.approx(2 ** (7 / 4))
    never = perplexity(torch.tensor([-1.0, -math.inf]), torch.tensor([1, 3]))
    assert never.value == math.inf
    assert never.kind == "exact"


def test_quantiles_of_draws_and_of_laws_agree():
    values = torch.tensor([3.0, 1.0, 2.0, 2.0], dtype=torch.float64)
    shares = torch.full((4,), 0.25, dtype=torch.float64)
    for level, wanted in ((0.05, 1.0), (0.25, 1.0), (0.26, 2.0), (0.75, 2.0), (0.76, 3.0)):
        assert quantile(values, level).value == exact_quantile(values, shares, level) == wanted
    assert quantile(torch.full((100,), 0.7), 0.05).standard_error == 0.0
    ruled_out = torch.tensor([-math.inf] * 50 + [1.0] * 50)
    assert quantile(ruled_out, 0.05).value == -math.inf
    assert quantile(ruled_out, 0.05).standard_error == 0.0


@pytest.mark.parametrize("level", list(QUANTILES.values()))
def test_the_error_of_a_quantile_is_the_spread_between_samples(level):
    """Of 2,000 samples of 400 exponential draws; sd of a ratio of deviations of 2,000: 1.6%. The
    mean of the bars may be off by their own noise, a few per cent more: a fifth is found."""
    draws = torch.rand(2000, 400, generator=generator(), dtype=torch.float64).log().neg()
    found = [quantile(row, level) for row in draws]
    spread = np.std([each.value for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.2)
    true = -math.log(1 - level)
    bias = np.mean([each.value for each in found]) - true
    # One place among 400 is as far as the definition can be from any other.
    assert abs(bias) < 1 / (400 * (1 - level)) + 5 * spread / math.sqrt(2000)


def completions(table, rows) -> po.Completions:
    return table.completions(["x"], rows, 3)


def test_self_bleu_of_copies_is_one_and_of_strangers_nothing():
    table = po.TabularLM.random([f"w{i}" for i in range(40)], 3, ("x",), seed=0)
    same = self_bleu(completions(table, [[5, 6, 7]] * 36))
    assert same.value == pytest.approx(1.0)
    assert same.standard_error == pytest.approx(0.0)
    apart = self_bleu(completions(table, [[3 * i + 1, 3 * i + 2, 3 * i + 3] for i in range(12)]))
    assert apart.value < 0.25
    empty = self_bleu(completions(table, [[0]] * 6))
    assert empty.value == pytest.approx(1.0)


def test_self_bleu_is_that_of_sacrebleu():
    """Texts of one token, repeats, and references of the same distance in length."""
    stream = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (36,), generator=stream).tolist()
    texts = [[*torch.randint(1, 5, (n - 1,), generator=stream).tolist(), 0] for n in lengths]
    words = [" ".join(map(str, text)) for text in texts]
    bleu = BLEU(effective_order=True, tokenize="none")
    expected = []
    for at, text in enumerate(words):
        start = at - at % TOGETHER
        others = words[start:at] + words[at + 1 : start + TOGETHER]
        expected.append(bleu.sentence_score(text, others).score / 100)
    found = self_bleu(tiny_lm().completions(["a"], texts, 8))
    assert found.value == pytest.approx(sum(expected) / len(expected), abs=1e-12)


def test_self_bleu_compares_groups_of_six(table):
    """A draw that has one copy among the five others matches in full; the rest is not looked at."""
    rows = [[1, 0]] * 3 + [[2, 0]] * 3
    assert self_bleu(completions(table, rows)).value == pytest.approx(1.0)
    drawn = table.sample(["x"], 2000, 3, generator())
    found = self_bleu(drawn)
    assert found.num_draws == TOGETHER * GROUPS == 36
    assert found.value == self_bleu(drawn.select(slice(0, 36))).value
    assert found.standard_error > 0
    assert math.isnan(self_bleu(drawn.select(slice(0, 11))).standard_error)
    assert self_bleu(drawn.select(slice(0, 2))).num_draws == 2


def test_self_bleu_of_all_prompts_at_once_is_that_of_each(table, monkeypatch):
    """In parts of any size, and where prompts have other numbers of draws."""
    drawn = table.sample(["x"], 120, 3, generator())
    rows = [torch.arange(at, at + size) for at, size in ((0, 36), (5, 40), (60, 7), (80, 2))]
    alone = [self_bleu(drawn.select(each)) for each in rows]
    for tokens in (1, 2**20):
        monkeypatch.setattr(diversity, "_AT_ONCE", tokens)
        for one, other in zip(alone, self_bleus(drawn, rows), strict=True):
            assert (one.value, one.num_draws) == (other.value, other.num_draws)
            assert str(one.standard_error) == str(other.standard_error)
    assert len({each.value for each in alone}) > 2


def test_with_exact_draws_the_targets_entropy_is_theirs():
    prior = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=1)
    target = po.Target(prior, po.Reward(reward, beta=0.5, max_reward=3.0), prior.prompts, 3)
    policy = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=9)
    posterior = po.sample(target, "rejection", 2000, seed=0)
    found = po.evaluate(target, policy, 1000, 0, posterior)["target_entropy"]
    wanted = po.exact(target).evaluate(policy)["target_entropy"].mean()
    assert abs(found.value - wanted) < 5 * found.standard_error
    assert found.value != po.evaluate(target, policy, 1000, 0)["target_entropy"].value


@pytest.mark.parametrize("ids", [[[1], [2], [1], [2]] * 5, [[n] for n in range(20)]])
def test_distinct_completions_are_never_certain(ids):
    """Without a completion that is there once, and where each is there once: leaving one out
    changes nothing, and other draws may be others."""
    lm = po.TabularLM.random([f"w{at}" for at in range(21)], 1, ("p",), seed=0)
    completions = lm.completions(prompts=["p"] * 20, completion_ids=ids)
    found = unique_fraction(completions)
    assert found.standard_error == pytest.approx(3 / 20 / 1.959964)

"""Draws have the probabilities that the tables state: chi-squared, false-alarm rate 1e-6.

Sample sizes are computed: as many draws as find a sampler at temperature 1.25, or one that ends 20%
too seldom, with probability 1 - 1e-6. The same sizes are then shown to find such a sampler.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import CASES, EOS, OracleCase, generator
from scipy import stats

import posteriori as po

FALSE_ALARM = MISSED = 1e-6


def pooled(expected: np.ndarray, *others: np.ndarray, least: float = 10.0):
    """Cells with fewer than `least` expected draws are taken together: chi-squared needs it."""
    rare = expected < least
    return [np.append(x[~rare], x[rare].sum()) for x in (expected, *others)]


def p_value(count: np.ndarray, probability: np.ndarray) -> float:
    # Scored in float32, the probabilities add up to 1 within 1e-7, and scipy wants 1e-8.
    expected, observed = pooled(probability / probability.sum() * count.sum(), count)
    keep = expected > 0
    assert observed[~keep].sum() == 0
    return stats.chisquare(observed[keep], expected[keep]).pvalue


def draws_needed(probability: np.ndarray, other: np.ndarray) -> int:
    """The fewest draws that tell `other` from `probability` at both error rates."""
    for num in (500 * 2**k for k in range(12)):
        expected, alternative = pooled(probability * num, other * num)
        noncentrality = ((alternative - expected) ** 2 / expected).sum()
        limit = stats.chi2.isf(FALSE_ALARM, len(expected) - 1)
        if stats.ncx2.cdf(limit, len(expected) - 1, noncentrality) < MISSED:
            return num
    raise AssertionError("the gap is too small")


def tables(name: str):
    """Per prompt: the exact probabilities, and those of two wrong samplers."""
    case = OracleCase(name)
    prior = case.prior()
    warm = prior.warped(temperature=1.25)
    exact = case.prior_log_prob().view(3, -1).exp().numpy()
    with torch.no_grad():
        tempered = warm.log_prob(case.all_outcomes(warm)).view(3, -1).exp().numpy()
    ended = np.array([ids[-1] == EOS for ids in case.outcomes])
    seldom = exact * np.where(ended, 0.8, 1.0)
    seldom /= seldom.sum(1, keepdims=True)
    return case, exact, {"temperature 1.25": tempered, "ends 20% too seldom": seldom}


def count(case: OracleCase, lm, num: int, seed: int) -> np.ndarray:
    """How often each outcome was drawn, [prompts, outcomes]."""
    place = {tuple(ids): at for at, ids in enumerate(case.outcomes)}
    drawn = lm.sample(case.prompts, num, 4, generator(seed))
    rows = [place[tuple(ids)] for ids in drawn.completion_ids]
    counts = np.zeros((3, len(case.outcomes)))
    np.add.at(counts, (drawn.prompt_index_N.numpy(), rows), 1)
    return counts


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_table(name):
    """Rate 3e-6 over three prompts; a gap of 1.25 in temperature or 20% in endings is found."""
    case, exact, wrong = tables(name)
    pairs = [pair for other in wrong.values() for pair in zip(exact, other, strict=True)]
    num = max(draws_needed(*pair) for pair in pairs)
    assert num <= 64_000
    counts = count(case, case.prior(), num, seed=1)
    for observed, probability in zip(counts, exact, strict=True):
        assert p_value(observed, probability) > FALSE_ALARM


@pytest.mark.parametrize("name", CASES)
def test_a_sampler_at_another_temperature_is_found(name):
    case, exact, wrong = tables(name)
    num = max(draws_needed(*pair) for pair in zip(exact, wrong["temperature 1.25"], strict=True))
    counts = count(case, case.prior().warped(temperature=1.25), num, seed=1)
    for observed, probability in zip(counts, exact, strict=True):
        assert p_value(observed, probability) < FALSE_ALARM


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7, "top_k": 4}, {"top_p": 0.8, "min_new_tokens": 2}], ids=str
)
def test_warped_draws_follow_their_own_log_probs(settings):
    """Rate 3e-6; 20,000 draws find a temperature off by 25% in either case (see above)."""
    case = OracleCase("case_1")
    lm = case.prior().warped(**settings)
    with torch.no_grad():
        probability = lm.log_prob(case.all_outcomes(lm)).view(3, -1).exp().numpy()
    for observed, exact in zip(count(case, lm, 20_000, seed=2), probability, strict=True):
        assert observed[exact == 0].sum() == 0
        assert p_value(observed, exact) > FALSE_ALARM


def test_a_table_draws_what_it_says():
    """Rate 3e-6."""
    case = OracleCase("case_1")
    table = po.TabularLM.random(("<eos>", *"abcde"), 4, case.prompts, seed=3)
    with torch.no_grad():
        exact = table.log_prob(case.all_outcomes(table)).view(3, -1).exp().numpy()
    for observed, probability in zip(count(case, table, 20_000, seed=3), exact, strict=True):
        assert p_value(observed, probability) > FALSE_ALARM


def test_draws_of_one_prompt_are_independent_of_each_other():
    """Neighbouring draws: the log-prob's lag-one correlation is below 5 / sqrt(n) (6e-7)."""
    case = OracleCase("case_1")
    drawn = case.prior().sample(case.prompts, 10_000, 4, generator(5))
    for row in drawn.log_prob_N.view(3, -1).numpy():
        correlation = np.corrcoef(row[:-1], row[1:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(len(row))

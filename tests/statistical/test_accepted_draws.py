"""Samplers that accept or select: chi-squared of their draws against exact laws on the oracle, and
z-tests of Z-hat and of what they say of themselves over independent seeds.

Chi-squared: a false-alarm rate of 1e-6 per prompt. The number of draws is computed so that a stated
wrong law is found with probability 1 - 1e-6, and the same draws are then shown not to follow it.
z-tests: |t| of R = 400 independent replicates is below the 5e-7 quantile of Student's t with R - 1
degrees of freedom on either side, a false-alarm rate of 1e-6 (the mean of 400 is normal).

The oracle's priors are laid out as tables, which draw the same laws faster; one test takes the
model itself.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import CASES, EOS, WORDS, OracleCase, has_c, reward
from scipy import stats
from test_sampler import FALSE_ALARM, draws_needed, p_value

import posteriori as po
from posteriori.samplers.independent.best_of_n_law import best_of_n_kl, best_of_n_log_prob

pytestmark = pytest.mark.long

BETA = 1.0
LARGEST = 4.0
"""The oracle's reward of four "b"."""


def exact_laws(case: OracleCase, beta: float = BETA) -> np.ndarray:
    """p* of the reward at that beta, [prompts, outcomes]."""
    score = torch.tensor(case.table["reward"], dtype=torch.float64)
    return (case.prior_log_prob().view(3, -1) + score / beta).softmax(-1).numpy()


def constrained_laws(case: OracleCase) -> np.ndarray:
    allowed = np.array(case.table["has_c"])
    law = case.prior_log_prob().view(3, -1).exp().numpy() * allowed
    return law / law.sum(1, keepdims=True)


def counted(case: OracleCase, draws: po.Draws) -> np.ndarray:
    """How often each outcome was drawn, [prompts, outcomes]."""
    place = {tuple(ids): at for at, ids in enumerate(case.outcomes)}
    rows = [place[tuple(ids)] for ids in draws.completion_ids]
    counts = np.zeros((3, len(case.outcomes)))
    np.add.at(counts, (draws.completions.prompt_index_N.numpy(), rows), 1)
    return counts


def follow(counts: np.ndarray, laws: np.ndarray) -> list[bool]:
    return [p_value(c, law) > FALSE_ALARM for c, law in zip(counts, laws, strict=True)]


def needed(laws: np.ndarray, others: np.ndarray) -> int:
    return max(draws_needed(*pair) for pair in zip(laws, others, strict=True))


def as_table(case: OracleCase) -> po.TabularLM:
    """The oracle's prior: log P(prefix + token) - log P(prefix), from its log-probs of outcomes."""
    prefixes = [p for depth in range(4) for p in itertools.product(range(1, 6), repeat=depth)]
    logits = torch.zeros(3, len(prefixes), len(WORDS), dtype=torch.float64)
    for at, log_p in enumerate(case.prior_log_prob().view(3, -1).exp().tolist()):
        mass: dict[tuple[int, ...], float] = {}
        for y, p in zip(case.outcomes, log_p, strict=True):
            for length in range(1, len(y) + 1):
                mass[tuple(y[:length])] = mass.get(tuple(y[:length]), 0.0) + p
        for row, prefix in enumerate(prefixes):
            logits[at, row] = torch.tensor([mass[(*prefix, t)] for t in range(6)]).double().log()
    return po.TabularLM(logits, case.prompts, WORDS)


@pytest.fixture(scope="module", params=CASES)
def tabled(request) -> tuple[OracleCase, po.TabularLM]:
    case = OracleCase(request.param)
    table = as_table(case)
    same = table.log_prob(case.all_outcomes(table))
    torch.testing.assert_close(same, case.prior_log_prob(), rtol=0, atol=1e-5)
    return case, table


def test_rejection_draws_the_posterior(tabled):
    """And not that of a beta 1.5 times too small."""
    case, table = tabled
    laws, wrong = exact_laws(case), exact_laws(case, BETA / 1.5)
    num = needed(laws, wrong)
    assert num <= 2000
    target = po.Target(table, po.Reward(reward, BETA, max_reward=LARGEST), case.prompts, 4)
    drawn = po.sample(target, "rejection", num, seed=1)
    assert len(drawn) == 3 * num
    counts = counted(case, drawn)
    assert all(follow(counts, laws))
    assert not any(follow(counts, wrong))


def test_rejection_draws_the_posterior_of_a_language_model():
    """And not that of half of beta."""
    case = OracleCase("case_2")
    laws, wrong = exact_laws(case), exact_laws(case, BETA / 2)
    num = needed(laws, wrong)
    assert num <= 1000
    target = po.Target(case.prior(), po.Reward(reward, BETA, max_reward=LARGEST), case.prompts, 4)
    counts = counted(case, po.sample(target, "rejection", num, seed=1))
    assert all(follow(counts, laws))
    assert not any(follow(counts, wrong))


def test_rejection_draws_under_a_hard_constraint(tabled):
    """And no other law of what it allows: not that which ends 30% too seldom."""
    case, table = tabled
    laws = constrained_laws(case)
    ended = np.array([ids[-1] == EOS for ids in case.outcomes])
    wrong = laws * np.where(ended, 0.7, 1.0)
    wrong /= wrong.sum(1, keepdims=True)
    num = needed(laws, wrong)
    assert num <= 32_000
    target = po.Target(table, po.Constraint(has_c), case.prompts, 4)
    counts = counted(case, po.sample(target, "rejection", num, seed=2))
    assert counts[:, np.array(case.table["has_c"]) == 0].sum() == 0
    assert all(follow(counts, laws))
    assert not any(follow(counts, wrong))


def test_rejection_from_another_proposal_draws_the_posterior():
    """A table of the same prompts proposes; the bound is the largest p~/q there is."""
    case = OracleCase("case_1")
    other = po.TabularLM.random(WORDS, 4, case.prompts, seed=3, scale=0.3)
    prior = po.TabularLM.random(WORDS, 4, case.prompts, seed=4, scale=0.5)
    target = po.Target(prior, po.Reward(reward, 2.0), case.prompts, 4)
    exact = po.exact(target)
    place = {tuple(ids): at for at, ids in enumerate(case.outcomes)}
    order = [[place[tuple(y)] for y in each.completion_ids] for each in exact.outcomes]
    laws, wrong = np.zeros((3, 781)), np.zeros((3, 781))
    log_m = -math.inf
    for at in range(3):
        log_q = exact.log_prob(other)[at]
        log_target = exact.log_prior[at] + exact.log_evidence[at]
        log_m = max(log_m, float((log_target - log_q).max()))
        laws[at, order[at]] = exact.log_posterior[at].exp().numpy()
        wrong[at, order[at]] = (log_q + exact.log_evidence[at]).softmax(0).numpy()
    num = needed(laws, wrong)
    assert num <= 16_000
    drawn = po.sample(target, "rejection", num, other, seed=3, max_log_weight=log_m)
    counts = counted(case, drawn)
    assert all(follow(counts, laws))
    assert not any(follow(counts, wrong)), "accepted by the evidence alone"


def test_qrs_draws_its_own_law_and_no_other(tabled):
    """p_b ~ min(p~, b q) at log b = 1: neither p* nor the law of a b that is twice as large."""
    case, table = tabled
    prior = case.prior_log_prob().view(3, -1).exp().numpy()
    w = np.exp(np.array(case.table["reward"]) / BETA)
    laws, wrong = (prior * np.minimum(w, b) for b in (math.e, 2 * math.e))
    laws, wrong = (law / law.sum(1, keepdims=True) for law in (laws, wrong))
    num = needed(laws, wrong)
    assert num <= 16_000
    target = po.Target(table, po.Reward(reward, BETA), case.prompts, 4)
    counts = counted(case, po.sample(target, "qrs", num, seed=4, log_threshold=1.0))
    assert all(follow(counts, laws))
    assert not any(follow(counts, wrong))
    assert not any(follow(counts, exact_laws(case)))


def test_best_of_n_draws_its_law(tabled):
    """F^n - F_-^n at n = 4, and not that of n = 3."""
    case, table = tabled
    score = torch.tensor(case.table["reward"], dtype=torch.float64)
    log_prior = case.prior_log_prob().view(3, -1)
    laws, wrong = (
        np.stack([best_of_n_log_prob(log_q, score, n).exp().numpy() for log_q in log_prior])
        for n in (4, 3)
    )
    num = needed(laws, wrong)
    assert num <= 8000
    target = po.Target(table, po.Reward(reward, BETA), case.prompts, 4)
    counts = counted(case, po.sample(target, "best_of_n", num, seed=5, n=4))
    assert all(follow(counts, laws))
    assert not any(follow(counts, wrong))


def test_soft_best_of_n_draws_its_law(tabled):
    """At n = 2, p~(y) sum_y' q(y') 2 / (w(y) + w(y')); neither the prior nor the target."""
    case, table = tabled
    prior = case.prior_log_prob().view(3, -1).exp().numpy()
    w = np.exp(np.array(case.table["reward"]) / BETA)
    laws = prior * w * (prior @ (2 / (w[:, None] + w)))
    np.testing.assert_allclose(laws.sum(1), 1.0, atol=1e-6)
    num = max(needed(laws, prior), needed(laws, exact_laws(case)))
    assert num <= 16_000
    target = po.Target(table, po.Reward(reward, BETA), case.prompts, 4)
    counts = counted(case, po.sample(target, "soft_best_of_n", num, seed=6, n=2))
    assert all(follow(counts, laws))
    assert not any(follow(counts, prior))
    assert not any(follow(counts, exact_laws(case)))


def t_of(values: np.ndarray, truth: float) -> float:
    return abs(values.mean() - truth) / (values.std(ddof=1) / math.sqrt(len(values)))


def t_limit(replicates: int) -> float:
    return stats.t.isf(FALSE_ALARM / 2, replicates - 1)


REPLICATES = 400


def truths(case: OracleCase, hard: bool) -> np.ndarray:
    """log Z at beta 2, or under the constraint."""
    return case.figures(*(("constraint_has_c",) if hard else ("posterior", "2.0")))["log_z"]


@pytest.mark.parametrize("hard", [False, True], ids=["reward", "has_c"])
def test_the_z_of_rejection_is_unbiased(tabled, hard):
    """Seeds of 6 acceptances a prompt. The plain ratio, of the same trials, is above Z and is found
    wherever its expectation, sum over n of P(n) 6/n, is 15% too large."""
    case, table = tabled
    evidence = po.Constraint(has_c) if hard else po.Reward(reward, 2.0, max_reward=LARGEST)
    target = po.Target(table, evidence, case.prompts, 4)
    m = math.exp(target.max_log_evidence)
    z, plain = np.zeros((REPLICATES, 3)), np.zeros((REPLICATES, 3))
    for seed in range(REPLICATES):
        for at, each in enumerate(po.sample(target, "rejection", 6, seed=seed).log_z.per_prompt):
            z[seed, at], plain[seed, at] = math.exp(each.value), m * 6 / each.num_draws
    found = []
    for at, truth in enumerate(np.exp(truths(case, hard))):
        assert t_of(z[:, at], truth) < t_limit(REPLICATES)
        extra = np.arange(10_000)  # trials that were not accepted
        ratio = (stats.nbinom.pmf(extra, 6, truth / m) * 6 / (extra + 6)).sum() * m / truth
        if ratio > 1.15:
            found.append(t_of(plain[:, at], truth) > t_limit(REPLICATES))
    assert all(found)
    assert hard or found, "the mutant was tried"


SAMPLERS = [
    ("qrs", {"pool": 64, "log_threshold": 0.0}),
    ("best_of_n", {"n": 8}),
    ("soft_best_of_n", {"n": 8}),
]


@pytest.mark.parametrize(("name", "settings"), SAMPLERS, ids=[name for name, _ in SAMPLERS])
@pytest.mark.parametrize("hard", [False, True], ids=["reward", "has_c"])
def test_the_z_of_the_others_is_unbiased(name, settings, hard):
    """Seeds of 64 draws of the proposal a prompt; a gap of 10% is found. One case each way."""
    case = OracleCase(CASES[hard])
    table = as_table(case)
    evidence = po.Constraint(has_c) if hard else po.Reward(reward, 2.0)
    target = po.Target(table, evidence, case.prompts, 4)
    z = np.zeros((REPLICATES, 3))
    for seed in range(REPLICATES):
        drawn = po.sample(target, name, 8, seed=seed, **settings)
        z[seed] = [math.exp(each.value) for each in drawn.log_z.per_prompt]
    for at, truth in enumerate(np.exp(truths(case, hard))):
        assert t_of(z[:, at], truth) < t_limit(REPLICATES)
        assert t_of(z[:, at], 1.1 * truth) > t_limit(REPLICATES)


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    """(estimate - exact) / standard error over 400 seeds of 1,000 draws on a table, per prompt."""
    prior = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=1)
    target = po.Target(prior, po.Reward(reward, 1.0, max_reward=3.0), prior.prompts, 3)
    exact = po.exact(target)
    log_b = 0.5
    truth: dict[str, list[float]] = {name: [] for name in ("acceptance", "tv", "kl", "best", "z")}
    for at in range(2):
        q, w = exact.log_prior[at].exp(), exact.log_evidence[at].exp()
        rate = (q * (w / math.exp(log_b)).clamp(max=1)).sum()
        p_b = q * (w / math.exp(log_b)).clamp(max=1) / rate
        p = exact.log_posterior[at].exp()
        log_best = best_of_n_log_prob(exact.log_prior[at], exact.log_evidence[at], 8)
        truth["acceptance"].append(float(rate))
        truth["tv"].append(0.5 * float((p - p_b).abs().sum()))
        truth["kl"].append(float((p * (p / p_b).log()).sum()))
        truth["best"].append(float((log_best.exp() * (log_best - exact.log_prior[at])).sum()))
        truth["z"].append(exact.log_z[at])
    z: dict[str, list[float]] = {name: [] for name in truth}
    for seed in range(REPLICATES):
        pool = po.sample(target, "importance", 1000, seed=seed)
        point = po.qrs_curve(pool, [log_b])[0]
        estimates = {
            "acceptance": point.acceptance,
            "tv": point.tv,
            "kl": point.kl,
            "best": best_of_n_kl(pool, 8),
            "z": po.sample(target, "rejection", 100, seed=seed).log_z,
        }
        for name, whole in estimates.items():
            for estimate, value in zip(whole.per_prompt, truth[name], strict=True):
                z[name].append((estimate.value - value) / estimate.standard_error)
    return {name: np.array(values) for name, values in z.items()}


@pytest.mark.long
@pytest.mark.parametrize("figure", ["acceptance", "tv", "kl", "best", "z"])
def test_error_bars_cover(scores, figure):
    """A right 95% interval covers between 91% and 98.25% of 800, but for a chance of 2e-6."""
    low, high = stats.binom.ppf([1e-6, 1 - 1e-6], 800, 0.95) / 800
    assert low <= np.mean(np.abs(scores[figure]) < 1.96) <= high
    for factor in (0.7, 1.5):
        wrong = np.mean(np.abs(scores[figure] / factor) < 1.96)
        assert not low <= wrong <= high, "error bars of the wrong size are found"

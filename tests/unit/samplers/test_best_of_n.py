"""`best_of_n` and `soft_best_of_n`: their laws by enumerating every group of n draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import CASES, WORDS, OracleCase, has_c, reward

import posteriori as po
from posteriori.core.numerics import log_mean_exp
from posteriori.errors import ConfigError, SamplingStopped
from posteriori.samplers.independent.best_of_n import BestOfN, choose
from posteriori.samplers.independent.best_of_n_law import (
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_log_prob,
    best_of_n_log_ratio,
)
from posteriori.samplers.independent.soft_best_of_n import SoftBestOfN


@pytest.fixture
def target() -> po.Target:
    """Seven outcomes with ties, and one that is ruled out."""
    table = po.TabularLM.random(WORDS[:3], 2, ("x", "y"), seed=4)
    return po.Target(table, [po.Reward(reward, 0.7), po.Constraint(not_aa)], table.prompts, 2)


def not_aa(completion_ids, **kwargs):
    return [y != [1, 1] for y in completion_ids]


class Groups:
    """Every group of n draws of one prompt, with its probability, as the sampler is handed them."""

    def __init__(self, target: po.Target, at: int, n: int, proposal=None) -> None:
        exact = po.exact(target)
        log_q = exact.log_prob(proposal or target.prior)[at]
        self.index_GN = torch.tensor(list(itertools.product(range(len(log_q)), repeat=n)))
        self.probability_G = log_q[self.index_GN].sum(1).exp()
        self.outcomes = len(log_q)
        every = po.Draws(
            exact.outcomes[at], log_q, exact.log_prior[at], exact.log_evidence[at], exact.reward[at]
        )
        self.draws = every.select(self.index_GN.flatten())

    def law(self, share_GN: torch.Tensor, weight_G: torch.Tensor | float = 1.0) -> torch.Tensor:
        """sum over the whole tree of P(group) weight P(y is chosen from it); [outcomes]."""
        mass_GN = (self.probability_G * weight_G)[:, None] * share_GN
        empty = torch.zeros(self.outcomes, dtype=torch.float64)
        return empty.index_add(0, self.index_GN.flatten(), mass_GN.flatten())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("from_prior", [True, False])
def test_the_law_of_the_best_of_n(target, at, n, from_prior):
    """F^n - F_-^n in proportion to q within ties, to 1e-12."""
    proposal = None if from_prior else po.TabularLM.random(WORDS[:3], 2, target.prompts, seed=5)
    groups = Groups(target, at, n, proposal)
    exact = po.exact(target)
    log_q = exact.log_prob(proposal or target.prior)[at]
    law = groups.law(BestOfN(n=n).shares(groups.draws))
    stated = best_of_n_log_prob(log_q, exact.log_evidence[at], n).exp()
    torch.testing.assert_close(law, stated, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mutant", ["the first of a tie", "n - 1", "continuous"])
def test_wrong_laws_are_seen_by_the_enumeration(target, mutant):
    groups, n = Groups(target, 0, 3), 3
    exact = po.exact(target)
    log_q, score = exact.log_prior[0], exact.log_evidence[0]
    stated = best_of_n_log_prob(log_q, score, n).exp()
    if mutant == "the first of a tie":
        score_GN = groups.draws.log_evidence_N.view(-1, n)
        share_GN = torch.nn.functional.one_hot(score_GN.argmax(-1), n).double()
        law = groups.law(share_GN)
        # Which of a tie is taken does not change the law of one draw: its place does not depend on
        # what it is. Ties broken by content do.
        torch.testing.assert_close(law, stated, rtol=0, atol=1e-12)
        by_content_GN = score_GN + 1e-6 * groups.index_GN
        law = groups.law(torch.nn.functional.one_hot(by_content_GN.argmax(-1), n).double())
    elif mutant == "n - 1":
        law = best_of_n_log_prob(log_q, score, n - 1).exp()
    else:
        cdf = torch.stack([log_q[score <= s].exp().sum() for s in score])
        law = n * cdf ** (n - 1) * log_q.exp()
    assert float((law - stated).abs().max()) > 1e-3


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("from_prior", [True, False])
def test_the_law_of_the_soft_best_of_n(target, n, from_prior):
    """As stated: p~(y) E[n / (w(y) + the other weights)]; weighted by the group's mean weight the
    draws would be those of p~ exactly; and KL(p*, law) is within its bound."""
    proposal = None if from_prior else po.TabularLM.random(WORDS[:3], 2, target.prompts, seed=5)
    groups = Groups(target, 0, n, proposal)
    exact = po.exact(target)
    log_w_GN = groups.draws.log_weight.view(-1, n)
    share_GN = SoftBestOfN(n=n).shares(groups.draws)
    log_target = exact.log_prior[0] + exact.log_evidence[0]
    weighted = groups.law(share_GN, log_mean_exp(log_w_GN).exp())
    torch.testing.assert_close(weighted, log_target.exp(), rtol=0, atol=1e-12)

    law = groups.law(share_GN)
    assert float(law.sum()) == pytest.approx(1.0)
    log_star, log_q = exact.log_posterior[0], exact.log_prob(proposal or target.prior)[0]
    on = log_star > -math.inf
    kl = float((log_star[on].exp() * (log_star[on] - law[on].log())).sum())
    chi2 = float((2 * log_star[on] - log_q[on]).exp().sum()) - 1
    assert -1e-12 < kl <= math.log1p(chi2 / n)
    none = groups.probability_G[log_w_GN.isneginf().all(1)].sum()
    others = Groups(target, 0, n - 1, proposal) if n > 1 else None
    rest_G = (
        others.draws.log_weight.view(-1, n - 1).exp().sum(1) if others else torch.zeros(1).double()
    )
    probability_G = others.probability_G if others else torch.ones(1).double()
    w = (log_target - log_q).exp()
    stated = torch.stack(
        [
            log_target[y].exp() * (n / (w[y] + rest_G) * probability_G).sum()
            for y in range(len(w))
            if w[y] > 0
        ]
    )
    torch.testing.assert_close(law[w > 0], stated, rtol=0, atol=1e-12)
    assert float(law[w == 0].sum()) == pytest.approx(float(none), abs=1e-12)


def test_soft_best_of_n_comes_nearer_to_the_target(target):
    exact = po.exact(target)
    far = []
    for n in (1, 2, 3, 4):
        groups = Groups(target, 0, n)
        law = groups.law(SoftBestOfN(n=n).shares(groups.draws))
        far.append(float((law - exact.log_posterior[0].exp()).abs().sum()))
    assert far == sorted(far, reverse=True)


def test_a_place_is_chosen_with_its_probability():
    """Over a regular grid of coins: within one grid step of each share, never a share of zero."""
    share_GN = torch.tensor(
        [[0.2, 0.0, 0.5, 0.3], [0.0, 1.0, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0]]
    ).double()
    nearly_one = torch.tensor([1 - 2**-53], dtype=torch.float64)
    coins = torch.cat([torch.arange(1000).double() / 1000, nearly_one])
    places = torch.stack([choose(share_GN, coin.repeat(3, 1))[:, 0] for coin in coins])
    for row in range(3):
        counts = torch.bincount(places[:, row], minlength=4)
        assert float((counts / 1001 - share_GN[row]).abs().max()) < 0.0021
        assert not bool(counts[share_GN[row] == 0].any())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [4, 16])
def test_the_law_is_that_of_the_oracle(name, n):
    """KL, mean reward and entropy by an independent computation, to 1e-10."""
    case = OracleCase(name)
    score = torch.tensor(case.table["reward"], dtype=torch.float64)
    figures = case.figures(f"best_of_{n}")
    for at, log_q in enumerate(case.prior_log_prob().view(3, -1)):
        log_p = best_of_n_log_prob(log_q, score, n)
        p = log_p.exp()
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-12)
        assert float((p * (log_p - log_q)).sum()) == pytest.approx(
            figures["kl_to_prior"][at], abs=1e-10
        )
        assert float((p * score).sum()) == pytest.approx(figures["mean_reward"][at], abs=1e-10)
        assert -float((p * log_p).sum()) == pytest.approx(figures["entropy"][at], abs=1e-10)
        assert figures["kl_to_prior"][at] < best_of_n_kl_bound(n)


@pytest.mark.parametrize("n", [1, 2, 16, 1000])
def test_without_ties_the_kl_is_its_bound(n):
    """200,000 scores of equal probability; 1e-4 is the width of the last steps at n = 1000."""
    p_V = torch.full((200_000,), 1 / 200_000, dtype=torch.float64)
    log_ratio_V = best_of_n_log_ratio(p_V, n)
    kl = float((p_V * log_ratio_V.exp() * log_ratio_V).sum())
    assert kl == pytest.approx(best_of_n_kl_bound(n), abs=1e-4)
    assert kl <= best_of_n_kl_bound(n) + 1e-12


def test_rare_scores_keep_their_precision():
    """p = 1e-18 vanishes beside F = 1 in floating point; n p F^(n-1) does not."""
    p_V = torch.tensor([0.5, 0.5, 1e-18], dtype=torch.float64)
    assert float(best_of_n_log_ratio(p_V, 100)[-1]) == pytest.approx(math.log(100), abs=1e-12)
    p_V = torch.tensor([1e-30, 1.0], dtype=torch.float64)
    assert float(best_of_n_log_ratio(p_V, 10)[0]) == pytest.approx(9 * math.log(1e-30))


def test_the_kl_from_draws_is_exact_for_the_law_that_was_drawn(target):
    """A pool that holds each outcome in proportion; and its error is the derivative of that."""
    score = torch.tensor([0.0] * 5 + [1.0] * 3 + [2.0] * 2, dtype=torch.float64)
    pool = pool_of(target, score)
    value = best_of_n_kl(pool, 3).value
    f = np.array([0.5, 0.8, 1.0])
    step = np.diff(f**3, prepend=0)
    assert value == pytest.approx(float((step * np.log(step / np.diff(f, prepend=0))).sum()))
    # One more draw of a score moves T by influence / N: the variance by finite differences.
    more = 100_000
    moved = []
    for s in (0.0, 1.0, 2.0):
        grown = torch.cat([score.repeat(more // 10), torch.tensor([s])])
        moved.append((best_of_n_kl(pool_of(target, grown), 3).value - value) * more)
    influence = np.repeat(moved, [5, 3, 2])
    expected = influence.std(ddof=1) / math.sqrt(10)
    assert best_of_n_kl(pool, 3).standard_error == pytest.approx(expected, rel=1e-3)


def pool_of(target: po.Target, score: torch.Tensor) -> po.Draws:
    """A pool of one prompt whose log-evidence is `score`."""
    num = len(score)
    drawn = target.prior.completions([target.prompts[0]] * num, [[0]] * num, 2)
    zero = torch.zeros(num, dtype=torch.float64)
    return po.Draws(drawn, zero, zero, score, zero)


@pytest.mark.parametrize("name", ["best_of_n", "soft_best_of_n"])
def test_a_run_is_whole(table, name):
    target = po.Target(table, po.Reward(reward, 0.5), table.prompts, 3)
    told = []
    drawn = po.sample(target, name, 100, seed=1, n=8, on_progress=lambda *a: told.append(a))
    assert drawn.prompts == [p for p in target.prompts for _ in range(100)]
    assert drawn.guarantee == "heuristic"
    assert not bool(drawn.log_weight.any())
    assert told == [(32, 100), (64, 100), (96, 100), (100, 100)]
    assert drawn.cost.evidence_calls == 2 * 100 * 8
    assert [(f.level, f.name) for f in drawn.findings] == [("info", f"kl_of_{name}")]
    for estimate, truth in zip(drawn.log_z.per_prompt, po.exact(target).log_z, strict=True):
        assert (estimate.kind, estimate.num_draws) == ("lower_bound", 800)
        # 5.5 standard errors of a normal: a false alarm in 2.6e7.
        assert abs(estimate.value - truth) < 5.5 * estimate.standard_error
    again = po.sample(target, name, 100, seed=1, n=8)
    assert again.completion_ids == drawn.completion_ids
    assert again.log_z == drawn.log_z
    for wrong in ({"n": 0}, {"n": 2.5}, {"m": 3}):
        with pytest.raises(ConfigError):
            po.sample(target, name, 10, **wrong)


@pytest.mark.parametrize("name", ["best_of_n", "soft_best_of_n"])
def test_what_is_ruled_out_has_no_weight(table, name):
    """A group of two may have no outcome that is allowed: its draw says so."""
    target = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    drawn = po.sample(target, name, 200, n=2)
    allowed = torch.tensor(has_c(drawn.completion_ids))
    assert 0 < int(allowed.sum()) < 400
    assert torch.equal(drawn.log_weight, torch.where(allowed, 0.0, -math.inf).double())
    assert all(3 in y for y in drawn.resample(50).completion_ids)


@pytest.mark.parametrize("name", ["best_of_n", "soft_best_of_n"])
def test_a_stopped_run_keeps_its_finished_draws(table, name):
    calls = []

    def failing(completion_ids, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return reward(completion_ids)

    target = po.Target(table, po.Reward(failing, 1.0), table.prompts, 3)
    with pytest.raises(SamplingStopped) as caught:
        po.sample(target, name, 1000, n=16)
    assert len(caught.value.draws) == 2 * 2 * 16
    assert caught.value.draws.cost.evidence_calls == 2 * 2 * 256

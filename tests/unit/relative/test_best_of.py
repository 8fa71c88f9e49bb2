"""BestOf by enumeration, by brute force over all n-tuples, and from draws with the error of F."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import posteriori as po
from posteriori import testing
from posteriori.relative.prior_pool import Pool
from posteriori.relative.rank_law import RankLaw
from posteriori.samplers.independent.best_of_n_law import best_of_n_kl_bound, best_of_n_log_prob

PROMPTS, WORDS = ["x", "y"], ["<eos>", "a", "b"]


def ties(completions, **_):
    return [float(text.count("a")) for text in completions]


def no_ties(completion_ids, **_):
    return [math.sin(sum((at + 1) * 3.7**t for t, at in enumerate(ids))) for ids in completion_ids]


def some_forbidden(completions, **_):
    return [-math.inf if text.count("b") > 1 else float(text.count("a")) for text in completions]


@pytest.fixture
def prior() -> po.TabularLM:
    return po.TabularLM.random(WORDS, 3, PROMPTS, seed=5)


def by_tuples(log_p: torch.Tensor, score: torch.Tensor, n: int) -> torch.Tensor:
    """P(y is the best of n), summed over every n-tuple, ties shared evenly."""
    p, s = log_p.exp().tolist(), score.tolist()
    law = [0.0] * len(p)
    for tuple_ in itertools.product(range(len(p)), repeat=n):
        chance = math.prod(p[at] for at in tuple_)
        best = max(s[at] for at in tuple_)
        winners = [at for at in tuple_ if s[at] == best]
        for at in winners:
            law[at] += chance / len(winners)
    return torch.tensor(law, dtype=torch.float64)


@pytest.mark.parametrize("fn", [ties, no_ties])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_target_is_the_law_of_every_tuple(prior, fn, n):
    exact = po.exact(po.Target(prior, po.BestOf(fn, n=n), PROMPTS, 3))
    for at in range(len(PROMPTS)):
        wanted = by_tuples(exact.log_prior[at], exact.reward[at], n)
        torch.testing.assert_close(exact.log_posterior[at].exp(), wanted, rtol=0, atol=1e-8)
        assert abs(exact.log_z[at]) < 1e-8


@pytest.mark.parametrize("fn", [ties, no_ties])
@pytest.mark.parametrize("n", [4, 64, 1000])
def test_large_n_is_the_law_in_closed_form(prior, fn, n):
    target = po.Target(prior, po.BestOf(fn, n=n), PROMPTS, 3)
    exact, found = po.exact(target), po.exact(target).evaluate_target()
    for at in range(len(PROMPTS)):
        wanted = best_of_n_log_prob(exact.log_prior[at], exact.reward[at], n)
        gap = (exact.log_posterior[at].exp() - wanted.exp()).abs().max()
        assert float(gap) < 1e-8
        assert abs(exact.log_z[at]) < 1e-8
        assert found["kl_to_prior"][at] <= best_of_n_kl_bound(n) + 1e-9
        assert float(exact.log_evidence[at].max()) <= target.max_log_evidence + 1e-9


def test_mutants_are_no_laws(prior):
    """n F^(n-1) counts ties as wins, F^n is the square of the wrong order, F_- loses ties."""
    exact = po.exact(po.Target(prior, po.BestOf(ties, n=3), PROMPTS, 3))
    law = RankLaw(Pool(exact.reward[0], exact.log_prior[0], is_exact=True))
    upper, lower = law.cdf(exact.reward[0])
    p = exact.log_prior[0].exp()
    right = p * law.log_best_of(exact.reward[0], 3).exp()
    assert abs(float(right.sum()) - 1) < 1e-9
    for wrong in (3 * upper**2, upper**3, 3 * lower**2):
        assert abs(float((p * wrong).sum()) - 1) > 0.02


def test_what_is_forbidden_stays_so(prior):
    exact = po.exact(po.Target(prior, po.BestOf(some_forbidden, n=4), PROMPTS, 3))
    for at in range(len(PROMPTS)):
        forbidden = exact.reward[at].isneginf()
        assert bool(exact.log_evidence[at][forbidden].isneginf().all())
        mass = float(exact.log_prior[at][forbidden].exp().sum())
        assert abs(exact.log_z[at] - math.log(1 - mass**4)) < 1e-9


def test_rejection_draws_it_exactly(prior):
    """3,000 exact draws per prompt against the law: chi-squared, false alarm 1e-6 in all."""
    from scipy.stats import chisquare

    target = po.Target(prior, po.BestOf(ties, n=4), PROMPTS, 3)
    assert target.max_log_evidence == math.log(4)
    exact, draws = po.exact(target), po.sample(target, "rejection", 3000, seed=1)
    for at in range(len(PROMPTS)):
        score = draws.reward_N[draws.completions.prompt_index_N == at]
        values = exact.reward[at].unique()
        seen = [int((score == v).sum()) for v in values]
        wanted = [
            3000 * float(exact.log_posterior[at][exact.reward[at] == v].exp().sum()) for v in values
        ]
        assert chisquare(seen, wanted).pvalue > 5e-7


def test_evidence_may_be_what_is_ranked_and_its_beta_does_not_matter(prior):
    one = po.exact(po.Target(prior, po.BestOf(po.Reward(ties, beta=0.2), n=4), PROMPTS, 3))
    two = po.exact(po.Target(prior, po.BestOf(ties, n=4), PROMPTS, 3))
    for mine, theirs in zip(one.log_posterior, two.log_posterior, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_it_keeps_the_contract_of_evidence():
    testing.check_evidence(po.BestOf(ties, n=3))
    testing.check_evidence(po.BestOf(no_ties, n=3, method="draws", num_samples=50))


def test_a_fit_goes_to_it(prior):
    target = po.Target(prior, po.BestOf(ties, n=4), PROMPTS, 3)
    fitted = po.fit(target, "rloo", steps=150, num_samples=32, learning_rate=0.1, seed=0)
    exact = po.exact(target)
    assert exact.evaluate(fitted.policy)["kl_to_target"].max() < 0.02
    assert exact.evaluate(prior)["kl_to_target"].max() > 0.2


def test_other_prompts_get_their_own_law(prior):
    evidence = po.BestOf(ties, n=4)
    first = po.exact(po.Target(prior, evidence, ["x"], 3)).log_posterior[0]
    second = po.exact(po.Target(prior, evidence, ["y"], 3)).log_posterior[0]
    both = po.exact(po.Target(prior, po.BestOf(ties, n=4), PROMPTS, 3)).log_posterior
    torch.testing.assert_close(first, both[0])
    torch.testing.assert_close(second, both[1])


def test_another_prior_is_refused(prior):
    evidence = po.BestOf(ties, n=4)
    po.Target(prior, evidence, PROMPTS, 3)
    with pytest.raises(po.PosterioriError, match="another prior"):
        po.Target(po.TabularLM.random(WORDS, 3, PROMPTS, seed=6), evidence, PROMPTS, 3)


def test_columns_are_part_of_the_prompt(prior):
    def wanted(completions, letter, **_):
        return [float(text.count(each)) for text, each in zip(completions, letter, strict=True)]

    rows = [{"prompt": "x", "letter": "a"}, {"prompt": "x", "letter": "b"}]
    exact = po.exact(po.Target(prior, po.BestOf(wanted, n=4), rows, 3))
    assert abs(exact.log_z).max() < 1e-8
    assert not torch.equal(exact.log_posterior[0], exact.log_posterior[1])


@pytest.mark.long
@pytest.mark.parametrize("tied", [False, True])
def test_the_error_of_f_is_what_seeds_differ_by(tied):
    """400 pools of 400 uniform scores: the variance of log e at three scores is within 40% of the
    stated one. 40% is 5.6 standard errors of a variance of 400 values: a false alarm in 10^7.
    """
    n, num, seeds = 6, 400, 400
    stream = torch.Generator().manual_seed(3)
    at = torch.tensor([0.55, 0.75, 0.95], dtype=torch.float64)
    found, stated = [], []
    for _ in range(seeds):
        score = torch.rand(num, generator=stream, dtype=torch.float64)
        if tied:
            score = (score * 20).ceil() / 20
        law = RankLaw(Pool(score, torch.zeros(num, dtype=torch.float64), is_exact=False))
        found.append(law.log_best_of(at, n))
        stated.append(law.errors(at, n).square().sum(1))
    spread = torch.stack(found).var(0)
    ratio = torch.stack(stated).mean(0) / spread
    assert bool(((ratio > 0.6) & (ratio < 1.4)).all()), ratio


def test_the_mean_of_the_evidence_is_one_at_any_number_of_draws(prior):
    """log Z of the target with F from draws averages to 0: E over pools of Z is exactly 1."""
    totals = []
    for seed in range(200):
        evidence = po.BestOf(no_ties, n=8, method="draws", num_samples=20, seed=seed)
        totals.append(
            float(torch.tensor(po.exact(po.Target(prior, evidence, ["x"], 3)).log_z).exp())
        )
    z = torch.tensor(totals)
    assert abs(float(z.mean()) - 1) < 5.5 * float(z.std()) / math.sqrt(len(z))
    assert po.Target(prior, evidence, ["x"], 3).findings[-1].name == "few_draws_for_best_of_n"


def test_evaluate_states_what_f_leaves_open(prior):
    from posteriori.core.estimates import combine

    evidence = po.BestOf(no_ties, n=4, method="draws", num_samples=100, seed=2)
    target = po.Target(prior, evidence, PROMPTS, 3)
    known = po.Target(prior, po.BestOf(no_ties, n=4), PROMPTS, 3)
    policy = po.TabularLM.random(WORDS, 3, PROMPTS, seed=9)
    drawn = po.evaluate(target, policy, num_samples=4000, seed=0)["kl_to_target"]
    exact = po.evaluate(known, policy, num_samples=4000, seed=0)["kl_to_target"]
    truth = po.exact(known).evaluate(policy)["kl_to_target"].mean()
    assert drawn.standard_error > 1.5 * exact.standard_error
    assert abs(drawn.value - truth) < 5.5 * drawn.standard_error
    assert combine(drawn.per_prompt, "consistent").standard_error > exact.standard_error

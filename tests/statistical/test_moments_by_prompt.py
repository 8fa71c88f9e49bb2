"""lambda of `Moments` by draws, where one prompt's draws hardly show the feature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq

import posteriori as po
from posteriori.moments.checks import findings_of_lambda, prompts_complete, prompts_covered
from posteriori.moments.dual import Dual

WORDS = ("<eos>", "a", "b")


def has_b(completion_ids, **kwargs):
    return [2 in y for y in completion_ids]


def one_token_table(masses: list[float]) -> po.TabularLM:
    """After prompt i the single token is "b" with the probability masses[i]."""
    rows = [[(1 - m) / 2, (1 - m) / 2, m] for m in masses]
    logits = torch.tensor(rows, dtype=torch.float64).log()[:, None]
    return po.TabularLM(logits, [f"p{i}" for i in range(len(masses))], WORDS)


def exact_lambda(masses: list[float], wanted: float) -> float:
    def off(x: float) -> float:
        return np.mean([m * math.exp(x) / (1 - m + m * math.exp(x)) for m in masses]) - wanted

    return brentq(off, -20, 20)


def fits(masses: list[float], wanted: float, num_samples: int, seeds: int) -> list:
    lm = one_token_table(masses)
    found = []
    for seed in range(seeds):
        moments = po.Moments(
            {"b": (has_b, wanted)}, method="draws", num_samples=num_samples, seed=seed
        )
        po.Target(lm, [moments], lm.prompts, 1)
        found.append(moments.fitted)
    return found


@pytest.mark.parametrize(
    ("masses", "wanted", "num_samples", "seeds"),
    [([0.012, 0.014, 0.0015], 0.6, 1000, 12), ([0.1, 0.2, 0.005], 0.6, 300, 60)],
    ids=["rare in all", "rare in one"],
)
def test_lambda_is_within_its_error_or_a_finding_says_so(masses, wanted, num_samples, seeds):
    """Coverage of +- 1.96 at least what 90% would be with a false alarm of 1e-6."""
    truth = exact_lambda(masses, wanted)
    found = fits(masses, wanted, num_samples, seeds)
    z = np.array([(f.lambda_["b"].value - truth) / f.lambda_["b"].standard_error for f in found])
    silent = [abs(each) > 5 and not f.findings for each, f in zip(z, found, strict=True)]
    assert not any(silent)
    assert (np.abs(z) < 1.96).sum() >= stats.binom.ppf(1e-6, seeds, 0.9)


def test_nothing_is_said_where_all_prompts_show_the_feature():
    assert all(f.findings == () and f.rounds == 1 for f in fits([0.1, 0.2, 0.3], 0.6, 1000, 10))


def dual_of(shown: list[int], num: int) -> Dual:
    """`shown[i]` of `num` draws after prompt i have the feature."""
    phi_PN1 = torch.zeros(len(shown), num, 1, dtype=torch.float64)
    for at, k in enumerate(shown):
        phi_PN1[at, :k] = 1
    log_w_PN = torch.zeros(len(shown), num, dtype=torch.float64)
    return Dual(log_w_PN, phi_PN1, torch.tensor([0.6], dtype=torch.float64))


def test_each_prompt_is_judged_alone():
    """One draw of 1,000 that has the feature carries a quarter of its prompt's weight at 5.8; in a
    pool with a prompt where 300 have it, it would not be noticed."""
    dual = dual_of([300, 1], 1000)
    at_K = torch.tensor([5.8], dtype=torch.float64)
    assert prompts_covered(dual, at_K) == [True, False]
    (finding, *_) = findings_of_lambda(dual, at_K, at_K, {"b": 5.8}, "Moments", ["x", "y"])
    assert finding.name == "moments_not_reached"
    assert "of 1000 draws after 'y'" in finding.message


def test_a_feature_that_no_draw_of_a_prompt_shows_may_be_there():
    """3/N e^lambda / (1 + 3/N e^lambda), N = 1,000, as the rule of three says."""
    dual = dual_of([300, 0], 1000)
    for at, complete in ((2.0, True), (5.0, False)):
        at_K = torch.tensor([at], dtype=torch.float64)
        share_P, _ = dual.missed(at_K)
        odds = 3 / 1000 * math.exp(at)
        assert share_P.tolist() == pytest.approx([0, odds / (1 + odds)])
        assert prompts_complete(dual, at_K) == [True, complete]
    finding = list(findings_of_lambda(dual, at_K, 0 * at_K, {"b": 5.0}, "M", ["x", "y"]))[-1]
    assert finding.name == "moments_not_seen"
    assert "no draw of 1000 after 'y'" in finding.message


def test_draws_that_have_moved_are_still_seen_from_the_prior():
    """The sampler's first step is the prior's: what it never drew there no tilt brings out."""
    moved = torch.tensor([5.0], dtype=torch.float64)
    dual = dual_of([300, 0], 1000)
    there = Dual(dual.log_w_PN, dual.phi_PNK, dual.mu_K, moved_K=moved)
    share_P, _ = there.missed(0 * moved)
    odds = 3 / 1000 * math.exp(5.0)
    assert share_P[1] == pytest.approx(odds / (1 + odds))


def test_a_mean_of_draws_that_are_all_alike_is_not_certain():
    masses = [0.3, 0.002]
    lm = one_token_table(masses)
    moments = po.Moments({"b": (has_b, 0.5)})
    po.Target(lm, [moments], lm.prompts, 1)
    for seed in range(20):
        drawn = lm.sample(lm.prompts, 50, 1, torch.Generator().manual_seed(seed))
        rare = moments.attained(drawn)["b"].per_prompt[1]
        assert abs(rare.value - masses[1]) < 1.96 * rare.standard_error
        assert rare.standard_error < 0.08

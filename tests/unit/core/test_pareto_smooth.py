"""Pareto-smoothed weights: what they keep, what they change, and what they cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import WORDS, has_c, reward
from scipy import stats

import posteriori as po
from posteriori.core.numerics import log_mean_exp, pareto_k, pareto_smooth

INF = math.inf


def pareto(k: float, num: int, seed: int = 0) -> torch.Tensor:
    """Log-weights of a generalised Pareto law of shape k and scale 1."""
    return torch.tensor(np.log(stats.genpareto.rvs(k, size=num, random_state=seed)))


@pytest.mark.parametrize("k", [-0.3, 0.3, 0.9, 1.4])
@pytest.mark.parametrize("shift", [0.0, 700.0, -700.0])
def test_only_the_tail_changes_and_its_order_stays(k, shift):
    log_w = pareto(k, 1000) + shift
    smooth = pareto_smooth(log_w)
    changed = (smooth - log_w).abs() > 1e-12
    tail = math.ceil(3 * math.sqrt(1000))
    assert int(changed.sum()) > tail // 2
    assert set(changed.nonzero()[:, 0].tolist()) <= set(log_w.topk(tail).indices.tolist())
    assert float(smooth.max()) <= float(log_w.max())
    order = log_w.argsort()
    assert bool((smooth[order].diff() >= -1e-12).all())
    torch.testing.assert_close(smooth, pareto_smooth(log_w - shift) + shift, rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [0.3, 0.7, 1.2])
def test_the_tail_has_the_quantiles_of_the_fitted_law(k):
    """Quantiles of scipy's generalised Pareto law, with the shape of `pareto_k` and the scale that
    the tail's own median implies, up to the cap at the largest weight."""
    log_w = pareto(k, 4000, seed=1).sort().values
    shape, tail = pareto_k(log_w), math.ceil(3 * math.sqrt(4000))
    smooth = pareto_smooth(log_w)[-tail:]
    threshold = math.exp(float(log_w[-tail - 1]))
    excess = smooth.exp().numpy() - threshold
    unit = stats.genpareto.ppf((np.arange(tail) + 0.5) / tail, shape)
    scale = excess[tail // 2] / unit[tail // 2]
    # Neighbours within rounding are a tie.
    tied = (log_w.diff() < 2e-4)[-tail:].numpy()
    free = (smooth < log_w[-1] - 1e-9).numpy() & ~tied & ~np.append(tied[1:], False)
    assert free.sum() > 0.8 * tail
    np.testing.assert_allclose(excess[free], scale * unit[free], rtol=1e-3, atol=2e-4 * threshold)
    # Excesses over u of a law of shape k and scale 1 have scale 1 + k u; the estimate of it has a
    # relative deviation of about sqrt(2 (1 + k) / tail), and five are allowed.
    assert scale == pytest.approx(1 + k * threshold, rel=5 * math.sqrt(2 * (1 + k) / tail))


@pytest.mark.parametrize("k", [0.3, 0.7])
def test_it_is_near_that_of_arviz(k):
    """The reference implementation, whose tail is one draw shorter: shares differ by 2% in all."""
    from arviz_stats.base import array_stats

    log_w = pareto(k, 2000, seed=2)
    theirs, _ = array_stats.psislw(-log_w.numpy())
    ours = pareto_smooth(log_w).log_softmax(0).numpy()
    assert np.abs(np.exp(ours) - np.exp(theirs)).sum() < 0.02


def test_ties_share_their_part_of_the_tail():
    log_w = torch.cat(
        [torch.linspace(-2, -1, 400), torch.tensor([0.0] * 20 + [1.5] * 8 + [4.0] * 2)]
    )
    smooth = pareto_smooth(log_w)
    assert len(smooth[400:420].unique()) == len(smooth[420:428].unique()) == 1
    assert smooth[400] < smooth[420] < smooth[428] <= 4.0


def test_zeros_stay_zeros():
    log_w = pareto(0.6, 500)
    both = torch.cat([log_w, torch.full((100,), -INF).double()])[
        torch.randperm(600, generator=gen())
    ]
    smooth = pareto_smooth(both)
    assert torch.equal(smooth.isneginf(), both.isneginf())
    torch.testing.assert_close(
        smooth[~smooth.isneginf()].sort().values, pareto_smooth(log_w).sort().values
    )


@pytest.mark.parametrize(
    "log_w",
    [
        torch.zeros(100),
        torch.linspace(0, 1, 24),
        torch.linspace(-50_000, 0, 1000),
        torch.full((40,), -INF),
    ],
    ids=["all equal", "too few", "beyond any tail", "all zero"],
)
def test_where_no_tail_can_be_fitted_nothing_changes(log_w):
    assert torch.equal(pareto_smooth(log_w), log_w.double())


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_heavy_means_vary_less():
    """Shape 0.7, mean 1/(1 - k): over 400 seeds the mean squared error of the smoothed mean is
    below that of the raw one, whose variance is infinite."""
    truth = 1 / 0.3
    raw, smooth = [], []
    for seed in range(400):
        log_w = pareto(0.7, 400, seed=seed)
        raw.append(float(log_w.exp().mean()) - truth)
        smooth.append(float(pareto_smooth(log_w).exp().mean()) - truth)
    assert np.square(smooth).mean() < 0.8 * np.square(raw).mean()
    # Why its estimate of Z is not called unbiased, nor a bound.
    assert abs(np.mean(smooth)) > 3 * np.std(smooth) / 20


def test_smoothed_importance_says_what_it_is(table):
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    other = po.TabularLM.random(WORDS[:4], 3, target.prompts, seed=2)
    raw = po.sample(target, "importance", 1000, other, seed=1)
    drawn = po.sample(target, "importance", 1000, other, seed=1, smooth=True)
    assert drawn.completion_ids == raw.completion_ids
    assert (raw.guarantee, drawn.guarantee) == ("properly_weighted", "asymptotic")
    assert (raw.log_z.kind, drawn.log_z.kind) == ("lower_bound", "consistent")
    assert {each.kind for each in drawn.log_z.per_prompt} == {"consistent"}
    for at in range(2):
        rows = drawn.completions.prompt_index_N == at
        expected = pareto_smooth(raw.log_weight[rows])
        assert torch.equal(drawn.log_weight[rows], expected)
        assert not torch.equal(expected, raw.log_weight[rows])
        assert drawn.log_z.per_prompt[at].value == pytest.approx(float(log_mean_exp(expected)))


def test_the_findings_are_about_the_raw_weights(table):
    heavy = po.Target(table, po.Reward(reward, beta=0.1), table.prompts, 3)
    for seed in range(5):
        raw = po.sample(heavy, "importance", 2000, seed=seed)
        drawn = po.sample(heavy, "importance", 2000, seed=seed, smooth=True)
        assert [str(f) for f in drawn.findings] == [str(f) for f in raw.findings]


def test_weights_that_were_not_smoothed_are_a_finding(table):
    target = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    assert po.sample(target, "importance", 500, smooth=True).findings == ()
    few = po.sample(target, "importance", 10, smooth=True)
    assert [finding.name for finding in few.findings] == [
        "weights_not_trusted",
        "weights_not_smoothed",
    ]
    assert "2 of 2 prompts" in few.findings[1].message

"""Best-of-n sits where its formula says: KL(p_n, prior) = log n - (n-1)/n, less where scores tie.

Taking the best of n draws has the law F^n - F_-^n of its reward. Without ties its KL to the prior
is log n - (n - 1)/n whatever the reward (Beirami et al. 2024, arXiv 2401.01879); with ties it is
less. It lies near the reward-KL frontier of the posteriors, and never above it.

    python experiments/best_of_n_sits_where_its_formula_says.py [--quick] [--figure bon.svg]
"""

from __future__ import annotations

import math

import numpy as np
import torch
from common import DEPTH, PROMPTS, Verdict, figure, main, prior, reward

import posteriori as po
from posteriori.samplers.independent.best_of_n_law import best_of_n_kl_bound, best_of_n_log_prob


def without_ties(completion_ids: list[list[int]], **_: object) -> list[float]:
    """A different reward for every completion, in no order that the prior knows."""
    return [math.sin(1.0 + sum(t * 7.3**k for k, t in enumerate(ids, 1))) for ids in completion_ids]


def run(num_sizes: int) -> Verdict:
    sizes = [2**k for k in range(num_sizes + 1)]
    wide = po.exact(
        po.Target(
            po.TabularLM.random(tuple("#abcdefghij"), DEPTH, PROMPTS, scale=0.3),
            po.Reward(without_ties, beta=1.0),
            PROMPTS,
            DEPTH,
        )
    )
    tied = po.exact(po.Target(prior(), po.Reward(reward, beta=1.0), PROMPTS, DEPTH))
    kl_wide = [_kl_and_reward(wide, n)[0] for n in sizes]
    points = [_kl_and_reward(tied, n) for n in sizes]
    # On a finite space an outcome of probability p ties with itself, which takes off about n p.
    tie = float(wide.log_prior[0].max().exp())
    formula = [best_of_n_kl_bound(n) for n in sizes]
    curve = _frontier(tied)
    drawn, axes = figure(
        "Best of n and the frontier of posteriors", "KL to the prior, nats", "reward"
    )
    axes.plot(curve[:, 0], curve[:, 1], "k-", label="posteriors, every beta")
    axes.plot(*zip(*points, strict=True), "C0o--", fillstyle="none", label="best of n (with ties)")
    axes.legend(fontsize=8)
    below = max(r - float(np.interp(k, curve[:, 0], curve[:, 1])) for k, r in points)
    gap = max(f - k for f, k in zip(formula, kl_wide, strict=True))
    holds = (
        0 <= gap < sizes[-1] * tie
        and all(k <= f + 1e-12 for (k, _), f in zip(points, formula, strict=True))
        and below < 1e-3
    )
    return Verdict(
        "best-of-n sits where its KL formula says",
        bool(holds),
        f"n up to {sizes[-1]}: without ties at most {gap:.4f} nats below log n - (n-1)/n = "
        f"{formula[-1]:.4f}; with ties {points[-1][0]:.4f}; its reward is never above the "
        f"frontier's (by {max(0.0, below):.1e} at most)",
        drawn,
    )


def _kl_and_reward(exact: po.Exact, n: int) -> tuple[float, float]:
    log_prior, score = exact.log_prior[0], exact.reward[0]
    log_n = best_of_n_log_prob(log_prior, score, n)
    kl = float((log_n.exp() * (log_n - log_prior)).sum())
    return kl, float((log_n.exp() * score).sum())


def _frontier(exact: po.Exact) -> np.ndarray:
    """KL to the prior and reward of p*_beta, from beta = infinity down."""
    rows = []
    for inverse in torch.linspace(0.0, 12.0, 400, dtype=torch.float64):
        log_star = (exact.log_prior[0] + inverse * exact.reward[0]).log_softmax(0)
        star = log_star.exp()
        kl = float((star * (log_star - exact.log_prior[0])).sum())
        rows.append((kl, float((star * exact.reward[0]).sum())))
    return np.array(rows)


if __name__ == "__main__":
    main(run, __doc__ or "", (4, 6))

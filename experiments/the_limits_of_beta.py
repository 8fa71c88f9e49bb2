"""The limits: beta to infinity gives the prior back, beta to zero the prior among the best.

As beta grows, p* tends to the prior; as it falls, to the prior restricted to the completions of
highest reward and renormalised, which is one sequence only where the best is unique.

    python experiments/the_limits_of_beta.py [--quick] [--figure limits.svg]
"""

from __future__ import annotations

import numpy as np
import torch
from common import DEPTH, PROMPTS, Verdict, figure, main, prior

import posteriori as po

LIMIT = 1e-3
"""Nats from the limit at the outermost betas."""


def has_b(completion_ids: list[list[int]], **_: object) -> list[float]:
    """Two values only, so that many completions are best."""
    return [float(2 in ids) for ids in completion_ids]


def run(num_betas: int) -> Verdict:
    betas = np.geomspace(0.05, 2000.0, num_betas)
    to_prior, to_best = [], []
    for beta in betas:
        exact = po.exact(po.Target(prior(), po.Reward(has_b, beta=float(beta)), PROMPTS, DEPTH))
        log_star, log_prior, best = exact.log_posterior[0], exact.log_prior[0], exact.reward[0] == 1
        log_best = log_prior - log_prior[best].logsumexp(0)
        to_prior.append(_kl(log_star, log_prior))
        # KL(limit, p*): the other way round it is infinite at every beta above zero.
        to_best.append(_kl(log_best[best], log_star[best]))
    drawn, axes = figure("p* between its two limits", "beta", "nats", log_y=True)
    axes.set_xscale("log")
    axes.plot(betas, to_prior, "k-", label="KL(p*, prior)")
    axes.plot(betas, to_best, "C0--", label="KL(prior among the best, p*)")
    axes.legend(fontsize=8)
    falls = bool(np.all(np.diff(to_prior) < 0) and np.all(np.diff(to_best) > -1e-12))
    return Verdict(
        "beta to infinity gives the prior, beta to zero the prior among the best completions",
        falls and to_prior[-1] < LIMIT and to_best[0] < LIMIT,
        f"KL(p*, prior) {to_prior[-1]:.1e} at beta {betas[-1]:.0f}; "
        f"KL(prior among the best, p*) {to_best[0]:.1e} at beta {betas[0]:.2f}; both monotone",
        drawn,
    )


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> float:
    return float((log_p.exp() * (log_p - log_q)).sum())


if __name__ == "__main__":
    main(run, __doc__ or "", (12, 60))

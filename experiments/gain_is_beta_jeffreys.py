"""What alignment gains is beta times the Jeffreys divergence; best-of-n is near the most it can be.

E_p*[r] - E_prior[r] = beta (KL(p*, prior) + KL(prior, p*)), and no policy at that KL has more
(arXiv 2605.07105). So what a policy wastes, in nats, is its distance from that limit. It is exact
here: of best-of-n, of PPO, and of GRPO as it is usually run (divided by the group's deviation, k3
in the loss).

    python experiments/gain_is_beta_jeffreys.py [--quick] [--figure jeffreys.svg]
"""

from __future__ import annotations

import numpy as np
import torch
from common import PROMPTS, Verdict, figure, main, trajectory

import posteriori as po
from posteriori.diagnostics.exact.exact_metrics import nearest_posterior
from posteriori.samplers.independent.best_of_n_law import best_of_n_log_prob

WORDS = tuple("#abcdefgh")
DEPTH = 3
WORTH = (0.0, 1.3, -0.4, 0.7, -1.1, 0.2, 0.9, -0.6, 0.4)
"""Of each word: sums of them are nearly normal, and hardly ever tie."""

BETAS = (2.0, 1.0, 0.5, 0.25)
USUAL = {"scale": True, "kl": "k3"}


def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [sum(WORTH[t] * (1 + 0.1 * k) for k, t in enumerate(ids)) for ids in completion_ids]


def world(beta: float) -> po.Target:
    prior = po.TabularLM.random(WORDS, DEPTH, PROMPTS, scale=0.5, seed=0)
    return po.Target(prior, po.Reward(reward, beta=beta), PROMPTS, DEPTH)


def run(steps: int) -> Verdict:
    exacts = {beta: po.exact(world(beta)) for beta in BETAS}
    identity = max(_identity(beta, exact) for beta, exact in exacts.items())
    exact = exacts[0.5]
    drawn, axes = figure("Reward and KL: the limit, and who reaches it", "KL, nats", "reward")
    curve = np.array([_point(exact, exact.log_prior, 0.0), *(_of_beta(b) for b in _strengths())])
    axes.plot(curve[:, 0], curve[:, 1], "k-", label="posteriors: the limit")
    wasted = {}
    for n in (2, 4, 8):
        law = tuple(
            best_of_n_log_prob(p, r, n) for p, r in zip(exact.log_prior, exact.reward, strict=True)
        )
        wasted[f"best of {n}"] = _wasted(exact, law)
        axes.plot(*_point(exact, law)[:2], "C0o", label="best of n" if n == 2 else None)
    settings = {"steps": steps, "num_samples": 8, "learning_rate": 0.05}
    for name, own, mark in (("ppo", {}, "C1s"), ("grpo", USUAL, "C2^"), ("rloo", {}, "C3v")):
        _, _, policy = trajectory(world(0.5), name, every=steps, objective_settings=own, **settings)
        law = exact.log_prob(policy)
        wasted[name] = _wasted(exact, law)
        axes.plot(*_point(exact, law)[:2], mark, label=name)
    axes.legend(fontsize=8)
    best = max(wasted[f"best of {n}"] for n in (2, 4, 8))
    return Verdict(
        f"gain = beta x Jeffreys; best-of-n wastes less than PPO and GRPO after {steps} steps",
        bool(identity < 1e-12 and min(wasted["ppo"], wasted["grpo"]) > best),
        f"the identity is off by {identity:.0e}; wasted, nats: "
        + ", ".join(f"{name} {nats:.3f}" for name, nats in wasted.items()),
        drawn,
    )


def _identity(beta: float, exact: po.Exact) -> float:
    off = 0.0
    for log_prior, log_star, r in zip(
        exact.log_prior, exact.log_posterior, exact.reward, strict=True
    ):
        change = log_star.exp() - log_prior.exp()
        jeffreys = (change * (log_star - log_prior)).sum()
        off = max(off, abs(float((change * r).sum() - beta * jeffreys)))
    return off


def _strengths() -> list[float]:
    return np.geomspace(0.05, 20.0, 40).tolist()


def _of_beta(strength: float) -> tuple[float, float, float]:
    exact = po.exact(world(1.0 / strength))
    return _point(exact, exact.log_posterior)


def _point(
    exact: po.Exact, law: tuple[torch.Tensor, ...], wasted: float = 0.0
) -> tuple[float, float, float]:
    """KL to the prior and reward, means over prompts."""
    kl = np.mean(
        [float((p.exp() * (p - q)).sum()) for p, q in zip(law, exact.log_prior, strict=True)]
    )
    reward = np.mean([float((p.exp() * r).sum()) for p, r in zip(law, exact.reward, strict=True)])
    return float(kl), float(reward), wasted


def _wasted(exact: po.Exact, law: tuple[torch.Tensor, ...]) -> float:
    _, nats = nearest_posterior(law, exact.log_prior, exact.log_evidence)
    return float(np.mean(nats))


if __name__ == "__main__":
    main(run, __doc__ or "", (60, 400))

"""The KL-RL objective is the evidence lower bound: J(pi) = beta (log Z - KL(pi, p*)).

Two sides computed independently, at every point of a training run: the left from rewards and the KL
to the prior, the right from log Z and the KL to the posterior (Korbak et al. 2022, section 3.2).

    python experiments/the_objective_is_the_elbo.py [--quick] [--figure elbo.svg]
"""

from __future__ import annotations

import numpy as np
from common import Verdict, figure, main, trajectory, world

BETA = 0.5
ROUNDING = 1e-10


def run(steps: int) -> Verdict:
    settings = {"steps": steps, "num_samples": 16, "learning_rate": 0.1}
    at, figures, _ = trajectory(world(BETA), "rloo", every=max(1, steps // 40), **settings)
    objective = figures["mean_reward"] - BETA * figures["kl_to_prior"]
    bound = BETA * (figures["log_z"] - figures["kl_to_target"])
    gap = float(np.abs(objective - bound).max())
    drawn, axes = figure("J(pi) rises to beta log Z", "steps", "reward units")
    axes.plot(at, objective.mean(1), "k-", label="E[r] - beta KL(pi, prior)")
    axes.plot(at, bound.mean(1), "o", fillstyle="none", label="beta (log Z - KL(pi, p*))")
    axes.axhline(BETA * figures["log_z"][0].mean(), linestyle="--", label="beta log Z")
    axes.legend(fontsize=8)
    return Verdict(
        "the KL-RL objective is the ELBO",
        gap < ROUNDING and bool((objective <= BETA * figures["log_z"] + ROUNDING).all()),
        f"largest difference of the two sides {gap:.1e} over {len(at)} policies and two prompts",
        drawn,
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (100, 1000))

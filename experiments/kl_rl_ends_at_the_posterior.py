"""KL-regularised RL ends at the Bayesian posterior prior x exp(r/beta) / Z.

The exact KL(pi, p*) falls to what the gradient's noise leaves, at every beta (Korbak et al. 2022,
section 3; the optimum of E[r] - beta KL(pi, prior) is p*).

    python experiments/kl_rl_ends_at_the_posterior.py [--quick] [--figure posterior.svg]
"""

from __future__ import annotations

from common import STYLES, Verdict, figure, main, trajectory, world

BETAS = (2.0, 1.0, 0.5)
NEAR = 0.02


def run(steps: int) -> Verdict:
    drawn, axes = figure("KL-regularised RL (rloo)", "steps", "exact KL(pi, p*), nats", log_y=True)
    ends = {}
    for style, beta in zip(STYLES, BETAS, strict=False):
        settings = {"steps": steps, "num_samples": 32, "learning_rate": 0.1}
        at, figures, _ = trajectory(world(beta), "rloo", every=max(1, steps // 30), **settings)
        distance = figures["kl_to_target"].max(1)
        axes.plot(at, distance, linestyle=style, label=f"beta {beta}")
        ends[beta] = (distance[0], distance[-1])
    axes.legend(fontsize=8)
    return Verdict(
        "KL-regularised RL ends at the posterior",
        all(end < NEAR for _, end in ends.values()),
        "worst prompt, nats: "
        + ", ".join(
            f"beta {beta}: {start:.3f} -> {end:.4f}" for beta, (start, end) in ends.items()
        ),
        drawn,
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (400, 2000))

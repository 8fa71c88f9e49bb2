"""Under Bradley-Terry preferences DPO meets the posterior that is the optimum of KL-regularised RL.

Pairs of draws of the prior are labelled by P(y1 > y2) = sigmoid((r1 - r2)/beta); `dpo` sees the
labels and no reward (Rafailov et al. 2023, arXiv 2305.18290).

    python experiments/dpo_meets_the_same_posterior.py [--quick] [--figure dpo.svg]
"""

from __future__ import annotations

from common import Verdict, figure, main, trajectory, world

NEAR = 0.05


def run(steps: int) -> Verdict:
    target = world(beta=1.0)
    drawn, axes = figure("Distance to the same target", "steps", "exact KL(pi, p*)", log_y=True)
    ends = {}
    for name, style in (("dpo", "k-"), ("rloo", "C0--")):
        settings = {"steps": steps, "num_samples": 64, "learning_rate": 0.1}
        at, figures, _ = trajectory(target, name, every=max(1, steps // 30), **settings)
        distance = figures["kl_to_target"].max(1)
        axes.plot(at, distance, style, label=name)
        ends[name] = distance[-1]
    axes.legend(fontsize=8)
    return Verdict(
        "dpo meets the same posterior under Bradley-Terry preferences",
        all(end < NEAR for end in ends.values()),
        "KL(pi, p*) at the end, worse prompt, nats: "
        + ", ".join(f"{name} {end:.4f}" for name, end in ends.items()),
        drawn,
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (600, 3000))

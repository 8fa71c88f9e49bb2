"""Reward alone collapses, whatever the learning rate.

Maximising E_pi[r] has its optimum where all mass lies on the completions of highest reward: the
entropy goes to zero at every learning rate, only sooner or later (Korbak et al. 2022, section 2).
The posterior, which `rloo` approximates from the same rewards, keeps its own entropy.

    python experiments/reward_alone_collapses.py [--quick] [--figure collapse.svg]
"""

from __future__ import annotations

from common import STYLES, Verdict, figure, main, trajectory, world

import posteriori as po

RATES = (0.3, 0.1, 0.03)
UPDATE = 30.0
"""Steps times learning rate: Adam moves a logit by about its rate a step."""


def run(steps_scale: int) -> Verdict:
    target = world()
    exact = po.exact(target)
    wanted = exact.evaluate_target()["entropy"].mean()
    drawn, axes = figure("Entropy of the policy", "steps x learning rate", "nats", log_y=True)
    ends = {}
    for style, rate in zip(STYLES, RATES, strict=False):
        steps = int(steps_scale * UPDATE / rate)
        settings = {"steps": steps, "num_samples": 16, "learning_rate": rate, "decay": "none"}
        at, figures, _ = trajectory(target, "rl", every=max(1, steps // 30), **settings)
        entropy = figures["entropy"].mean(1)
        axes.plot([rate * step for step in at], entropy, linestyle=style, label=f"rl, rate {rate}")
        ends[rate] = entropy[-1]
    steps = int(steps_scale * UPDATE / 0.1)
    settings = {"steps": steps, "num_samples": 16, "learning_rate": 0.1}
    at, figures, _ = trajectory(target, "rloo", every=max(1, steps // 30), **settings)
    kept = figures["entropy"].mean(1)
    axes.plot([0.1 * step for step in at], kept, "k-", linewidth=2, label="rloo, beta 0.5")
    axes.axhline(wanted, color="gray", linewidth=1, label="the target's entropy")
    axes.legend(fontsize=8)
    collapsed = all(entropy < 0.05 * wanted for entropy in ends.values())
    return Verdict(
        "pure RL collapses whatever the learning rate",
        bool(collapsed and abs(kept[-1] - wanted) < 0.1 * wanted),
        "entropy at the end, nats: "
        + ", ".join(f"{entropy:.4f} at rate {rate}" for rate, entropy in ends.items())
        + f"; rloo {kept[-1]:.3f}, the target's {wanted:.3f}",
        drawn,
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (1, 4))

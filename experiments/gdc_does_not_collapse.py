"""Distributional policy gradients (GDC), which maximise no reward, do not collapse either.

`dpg` minimises KL(p*, pi) for the same target: not RL, no KL penalty, and the same end. What saves
a policy from collapse is having a distribution as its target (Korbak et al. 2022, section 4).

    python experiments/gdc_does_not_collapse.py [--quick] [--figure gdc.svg]
"""

from __future__ import annotations

from common import Verdict, figure, main, trajectory, world

import posteriori as po

NEAR = 0.05


def run(steps: int) -> Verdict:
    target = world()
    wanted = po.exact(target).evaluate_target()["entropy"].mean()
    drawn, axes = figure("Entropy of the policy", "steps", "nats")
    ends = {}
    for name, style in (("dpg", "k-"), ("rloo", "C0--"), ("rl", "C1:")):
        settings = {"steps": steps, "num_samples": 32, "learning_rate": 0.1}
        at, figures, _ = trajectory(target, name, every=max(1, steps // 30), **settings)
        axes.plot(at, figures["entropy"].mean(1), style, label=name)
        ends[name] = {key: values[-1] for key, values in figures.items()}
    axes.axhline(wanted, color="gray", linewidth=1, label="the target's entropy")
    axes.legend(fontsize=8)
    dpg = ends["dpg"]
    return Verdict(
        "GDC does not collapse: it ends at the same posterior",
        bool(
            dpg["kl_from_target"].max() < NEAR
            and dpg["kl_to_target"].max() < NEAR
            and ends["rl"]["entropy"].mean() < 0.05 * wanted
        ),
        f"entropy: dpg {dpg['entropy'].mean():.3f}, target {wanted:.3f}, "
        f"rl {ends['rl']['entropy'].mean():.4f}; dpg's KL(p*, pi) "
        f"{dpg['kl_from_target'].max():.4f} and KL(pi, p*) {dpg['kl_to_target'].max():.4f} nats "
        "on the worse prompt",
        drawn,
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (500, 3000))

"""Which f-divergence to descend: at equal draws none is best at everything.

Each of `fdpg`'s divergences has the same minimum, and the policy takes another way to it. After
few draws, KL(p*, pi) (what is missed) and KL(pi, p*) (what should not be there) are enumerated.
The Jensen-Shannon divergence is the compromise: never the worst in either (2302.08215).

    python experiments/the_order_of_f_divergences.py [--quick] [--figure divergences.svg]
"""

from __future__ import annotations

import numpy as np
from common import Verdict, figure, main, trajectory, world

KINDS = ("forward_kl", "reverse_kl", "js", "tv", "chi2", "reverse_chi2")
STEPS = 40


def run(num_seeds: int) -> Verdict:
    found = {kind: np.array([_ends(kind, seed) for seed in range(num_seeds)]) for kind in KINDS}
    missed = {kind: rows[:, 0].mean() for kind, rows in found.items()}
    wrong = {kind: rows[:, 1].mean() for kind, rows in found.items()}
    drawn, axes = figure(f"After {STEPS} steps of 16 draws", "KL(p*, pi), nats", "KL(pi, p*), nats")
    for kind in KINDS:
        axes.plot(missed[kind], wrong[kind], "o")
        axes.annotate(kind, (missed[kind], wrong[kind]), fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    by_missed, by_wrong = (sorted(KINDS, key=each.__getitem__) for each in (missed, wrong))
    worst = {kind: max(by_missed.index(kind), by_wrong.index(kind)) for kind in KINDS}
    return Verdict(
        "JS is a compromise: in the better half of the divergences by both KLs",
        worst["js"] < len(KINDS) // 2,
        f"{num_seeds} seeds; by KL(p*, pi): "
        + ", ".join(f"{kind} {missed[kind]:.3f}" for kind in by_missed)
        + "; by KL(pi, p*): "
        + ", ".join(f"{kind} {wrong[kind]:.3f}" for kind in by_wrong),
        drawn,
    )


def _ends(kind: str, seed: int) -> tuple[float, float]:
    settings = {"steps": STEPS, "num_samples": 16, "learning_rate": 0.1, "seed": seed}
    own = {"divergence": kind}
    _, figures, _ = trajectory(world(), "fdpg", every=STEPS, objective_settings=own, **settings)
    return figures["kl_from_target"][-1].mean(), figures["kl_to_target"][-1].mean()


if __name__ == "__main__":
    main(run, __doc__ or "", (2, 12))

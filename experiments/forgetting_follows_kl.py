"""RL's razor: how much is forgotten is told by the KL on the new task, not by who trained it.

A tiny transformer learns a new task on one prompt, by several objectives and rates, and its old one
is what it writes after other prompts: KL(prior, pi) there, which nothing in training mentions, is
what it has forgotten. Everything is enumerated (2509.04259).

    python experiments/forgetting_follows_kl.py [--quick] [--figure razor.svg]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import Verdict, figure, main

import posteriori as po

MODEL = Path(__file__).parents[1] / "tests" / "data" / "oracle" / "case_1" / "model"
NEW, OLD = ("a b ",), ("c ", "d e a c ")
DEPTH = 3
RUNS = (
    ("rloo", 3e-3, 1.0),
    ("rl", 3e-3, 1.0),
    ("rloo", 1e-3, 0.5),
    ("dpg", 3e-3, 0.5),
    ("rwr", 3e-3, 0.5),
    ("rl", 1e-2, 1.0),
    ("rloo", 1e-2, 0.25),
    ("dpg", 1e-2, 1.0),
)
EXPLAINED = 0.7


def new_task(completions: list[str], **_: object) -> list[float]:
    return [text.split().count("b") - 0.5 * text.split().count("d") for text in completions]


def run(steps: int) -> Verdict:
    prior = po.load(MODEL)
    old = po.exact(po.Target(prior, [], OLD, DEPTH))
    points = []
    for name, rate, beta in RUNS:
        target = po.Target(prior, po.Reward(new_task, beta=beta), NEW, DEPTH)
        policy = po.fit(
            target,
            name,
            steps=steps,
            num_samples=16,
            learning_rate=rate,
            seed=0,
            on_note=lambda _: None,
        ).policy
        spent = float(po.exact(target).evaluate(policy)["kl_to_prior"].mean())
        pairs = zip(old.log_prior, old.log_prob(policy), strict=True)
        forgotten = float(np.mean([float((p.exp() * (p - q)).sum()) for p, q in pairs]))
        points.append((spent, forgotten))
    spent, forgotten = np.array(points).T
    drawn, axes = figure("What is forgotten", "KL(pi, prior) on the new task, nats", "nats")
    for (name, _, _), x, y in zip(RUNS, spent, forgotten, strict=True):
        axes.plot(x, y, "o")
        axes.annotate(name, (x, y), fontsize=8)
    axes.set_ylabel("KL(prior, pi) on the old one, nats")
    basis = np.stack([np.log(spent), np.ones_like(spent)], axis=1)
    wanted = np.log(forgotten)
    line, *_ = np.linalg.lstsq(basis, wanted, rcond=None)
    explained = 1 - (wanted - basis @ line).var() / wanted.var()
    return Verdict(
        "forgetting is told by the KL on the new task",
        bool(explained > EXPLAINED),
        f"log KL on the new task explains {explained:.2f} of the variance of log forgetting over "
        f"{len(RUNS)} runs of five objectives and rates; new: "
        + ", ".join(f"{each:.2f}" for each in spent)
        + "; old: "
        + ", ".join(f"{each:.2f}" for each in forgotten),
        drawn,
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (12, 60))

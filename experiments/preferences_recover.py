"""A reward model of enough pairs gives back the posterior of the utility that labelled them.

Pairs of draws of a tiny transformer are labelled by a known utility under Bradley-Terry; a reward
model is trained on them, on that very transformer as the backbone. Everything is enumerated: KL
between the posterior under the true utility and the one under the learned reward.

    python experiments/preferences_recover.py [--quick] [--figure recover.svg]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Verdict, figure, main

import posteriori as po
from posteriori.reward_models.simulate_preferences import best_accuracy

MODEL = Path(__file__).parents[1] / "tests" / "data" / "oracle" / "case_1" / "model"
PROMPTS = ("a b ", "c ", "d e a c ")
"""They end in a space, so that prompt and completion are words as one text, too."""
DEPTH = 4
SCALE, BETA = 0.5, 1.0
NEAR_BEST = 0.05
"""How far the held-out accuracy may be from the best that label noise allows."""
SIZES = (125, 1000, 8000, 32000)
STEPS, BATCH = 1000, 128


def utility(completions: list[str], **_: object) -> list[float]:
    """One for each "b", less a half for each "d"."""
    return [text.split().count("b") - 0.5 * text.split().count("d") for text in completions]


def says_something(completions: list[str], **_: object) -> list[bool]:
    """Pairs never hold the empty completion, so that nothing is known of its reward."""
    return [bool(text) for text in completions]


def world(prior: po.CausalLM, evidence: Any) -> po.Target:
    return po.Target(prior, [evidence, po.Constraint(says_something)], PROMPTS, DEPTH)


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> float:
    """KL(p, q) where both are zero in the same places."""
    on = log_p > -torch.inf
    return float((log_p[on].exp() * (log_p[on] - log_q[on])).sum())


def run(num_sizes: int) -> Verdict:
    prior = po.load(MODEL)
    target = world(prior, po.Reward(utility, beta=BETA))
    truth = po.exact(target).log_posterior
    held_out = po.simulate_preferences(target, 1000, scale=SCALE, seed=1)
    best = best_accuracy(held_out, scale=SCALE)
    sizes, distances, accuracies = SIZES[:num_sizes], [], []
    for size in sizes:
        pairs = po.simulate_preferences(target, size, scale=SCALE, seed=2)
        fit = po.fit_reward(
            MODEL,
            pairs,
            held_out_pairs=held_out,
            batch_size=BATCH,
            epochs=max(1, round(STEPS * BATCH / size)),
            learning_rate=1e-2,
            decay="cosine",
            evaluate_every=30,
            patience=10,
        )
        # Rewards are log-odds, the utility in units of `SCALE`.
        learned = world(prior, po.Preferences(fit, beta=BETA / SCALE))
        posterior = po.exact(learned).log_posterior
        distances.append(np.mean([kl(p, q) for p, q in zip(truth, posterior, strict=True)]))
        accuracies.append(fit.held_out.accuracy)
    drawn, axes = figure("From preferences to the posterior", "pairs", "exact KL, nats", log_y=True)
    axes.set_xscale("log")
    axes.plot(sizes, distances, "ko-", label="KL(true posterior, learned posterior)")
    other = axes.twinx()
    other.plot(sizes, [each.value for each in accuracies], "C0s--", label="held-out accuracy")
    other.axhline(best, color="C0", linestyle=":", label="best that label noise allows")
    other.set_ylabel("accuracy")
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], fontsize=8, loc="center right")
    falls = bool(np.all(np.diff(distances) < 0))
    return Verdict(
        "the posterior under a learned reward nears the true one as pairs grow",
        falls and abs(accuracies[-1].value - best) < NEAR_BEST,
        ", ".join(
            f"{size} pairs: KL {distance:.3f}, accuracy {accuracy}"
            for size, distance, accuracy in zip(sizes, distances, accuracies, strict=True)
        )
        + f"; best accuracy {best:.4f}",
        drawn,
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (2, len(SIZES)))

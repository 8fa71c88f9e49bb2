"""Gao's curves, gold = d (a - b log d), and their turning point foretold before training.

A reward model of readable features is learned from 25 pairs of a known utility. Along its
posteriors the true reward rises and falls with d = sqrt(KL) (2210.10760, its form for RL), and
`po.turning_point` says from draws of the prior, and from what the pairs leave open, where: its 95%
interval is held against the truth, which is enumerated.

    python experiments/over_optimisation_is_foretold.py [--quick] [--figure gao.svg]
"""

from __future__ import annotations

import numpy as np
import torch
from common import Verdict, figure, main

import posteriori as po

PROMPTS, WORDS, DEPTH = ("x", "y"), ("<eos>", "a", "b", "c"), 4
FITS = 0.9
"""R^2 of Gao's form, in the mean over worlds."""


def counts(letter: str):
    return lambda completions, **_: [float(text.count(letter)) for text in completions]


FEATURES = {
    **{letter: counts(letter) for letter in "abc"},
    "long": lambda completions, **_: [float(len(text) > 5) for text in completions],
}


def run(num_worlds: int) -> Verdict:
    drawn, axes = figure("True reward along the reward model's posteriors", "sqrt(KL)", "gain")
    within, fits = 0, []
    for seed in range(num_worlds):
        prior = po.TabularLM.random(WORDS, DEPTH, PROMPTS, seed=seed)
        weights = np.random.default_rng(seed).normal(0, 1, len(FEATURES))

        def utility(completions: list[str], w: np.ndarray = weights, **_: object) -> list[float]:
            return (w @ np.array([each(completions) for each in FEATURES.values()])).tolist()

        true = po.Target(prior, po.Reward(utility, beta=1.0), PROMPTS, DEPTH)
        pairs = po.simulate_preferences(true, 25, seed=seed)
        learned = po.fit_composition(FEATURES, pairs, held_out_pairs=pairs)
        target = po.Target(prior, po.Preferences(learned, beta=1.0), PROMPTS, DEPTH)
        turn = po.turning_point(target, num_samples=1000, num_worlds=400, seed=seed)
        betas = [beta for beta, *_ in turn.curve]
        kl, gold = _truth(po.exact(true), learned, betas)
        low, high = turn.kl_interval
        within += low <= turn.curve[int(gold.argmax())][1] <= high
        d = np.sqrt(kl[1:])
        basis = np.stack([d, -d * np.log(d)], axis=1)
        (a, b), *_ = np.linalg.lstsq(basis, gold[1:], rcond=None)
        left = gold[1:] - basis @ (a, b)
        fits.append(1 - left.var() / gold[1:].var())
        axes.plot(np.sqrt(kl.clip(min=0.0)), gold, linewidth=1)  # rounding leaves less than 0
    return Verdict(
        "gold = d (a - b log d), and where it turns is foretold within its own 95%",
        within >= np.ceil(0.9 * num_worlds) and float(np.mean(fits)) > FITS,
        f"R^2 of Gao's form {np.mean(fits):.3f} in the mean, {min(fits):.3f} at worst; the turning "
        f"point is in its interval in {within} of {num_worlds} worlds",
        drawn,
    )


def _truth(exact: po.Exact, model: po.Composition, betas: list[float]) -> tuple[np.ndarray, ...]:
    """KL(p*_beta, prior) and the gain in true reward, enumerated, means over prompts."""
    scores = [torch.tensor(model(each.prompts, each.texts)) for each in exact.outcomes]
    rows = []
    for beta in betas:
        kl, gain = 0.0, 0.0
        for log_p, r, u in zip(exact.log_prior, scores, exact.reward, strict=True):
            log_star = (log_p + r / beta).log_softmax(0)
            kl += float((log_star.exp() * (log_star - log_p)).sum()) / len(scores)
            gain += float(((log_star.exp() - log_p.exp()) * u).sum()) / len(scores)
        rows.append((kl, gain))
    return tuple(np.array(rows).T)


if __name__ == "__main__":
    main(run, __doc__ or "", (3, 10))

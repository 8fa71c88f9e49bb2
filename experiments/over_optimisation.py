"""Over-optimisation: as beta falls, a reward learned from few pairs promises more than is true.

A reward model with a Gaussian over its last layer is trained on 300 pairs. Along beta, the gain
that it promises (over the prior) is set against the true gain in utility, both exact, averaged over
reward models from independent pairs. They part early for `marginal`, which goes where the model
knows least, later for `mean`, and later still for the lower bound.

The prior on the last layer is weak, so the rewards are about those of maximal likelihood: a prior
precision of maximal marginal likelihood shrinks them so much that `mean` promises less than is
true.

    python experiments/over_optimisation.py [--quick] [--figure over_optimisation.svg]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from common import Verdict, figure, main
from preferences_recover import DEPTH, MODEL, PROMPTS, SCALE, kl, utility, world

import posteriori as po

NUM_PAIRS = 300
PRECISION = 4.0
BETAS = np.geomspace(4.0, 0.03, 16)
KINDS = ("marginal", "mean", "lower")
KAPPA = 1.0
LOOK = 2.0
APART = 0.25
"""Nats of log-odds by which a promise exceeds the truth once the two have parted."""


def backbone(seed: int = 0) -> Any:
    """A random transformer, wider than the prior: features that make the reward learnable."""
    config = transformers.GPT2Config(
        vocab_size=6,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        num_labels=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.GPT2ForSequenceClassification(config)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.data.normal_(std=0.3)
    return model


def run(num_models: int) -> Verdict:
    prior = po.load(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    target = world(prior, po.Reward(utility, beta=1.0))
    allowed = po.exact(po.Target(prior, target.evidence[1], PROMPTS, DEPTH))
    log_prior_PN = torch.stack(allowed.log_posterior)
    prior_PN = log_prior_PN.exp()
    utility_PN = torch.stack(po.exact(target).reward) / SCALE
    texts = [text for outcomes in allowed.outcomes for text in outcomes.texts]
    prompts = [prompt for outcomes in allowed.outcomes for prompt in outcomes.prompts]
    held_out = po.simulate_preferences(target, 300, scale=SCALE, seed=0)
    # kind -> [models, betas, (KL to the prior, promised gain, true gain)]
    found = {kind: np.zeros((num_models, len(BETAS), 3)) for kind in KINDS}
    for at in range(num_models):
        pairs = po.simulate_preferences(target, NUM_PAIRS, scale=SCALE, seed=at + 1)
        fit = po.fit_reward(
            backbone(),
            pairs,
            tokenizer=tokenizer,
            held_out_pairs=held_out,
            tuning="head",
            uncertainty="laplace",
            prior_precision=PRECISION,
        )
        feature_ND = fit.model.features(prompts, texts)
        # The spread counts from the mean feature of the prior's draws, prompt by prompt.
        mean_PD = (prior_PN[..., None] * feature_ND.view(*prior_PN.shape, -1)).sum(1)
        reference_ND = mean_PD.repeat_interleave(prior_PN.shape[1], 0)
        for kind in KINDS:
            for place, beta in enumerate(BETAS):
                log_e_N = fit.model.posterior.log_evidence(
                    feature_ND, float(beta), kind, KAPPA, reference_ND
                )
                log_e_PN = log_e_N.view_as(prior_PN)
                log_star_PN = (log_prior_PN + log_e_PN).log_softmax(-1)
                change_PN = log_star_PN.exp() - prior_PN
                found[kind][at, place] = (
                    np.mean([kl(p, q) for p, q in zip(log_star_PN, log_prior_PN, strict=True)]),
                    float((change_PN * beta * log_e_PN).sum(-1).mean()),
                    float((change_PN * utility_PN).sum(-1).mean()),
                )
    curves = {kind: rows.mean(0) for kind, rows in found.items()}
    drawn, axes = figure("What is promised, and what is true", "KL to the prior, nats", "log-odds")
    for color, (kind, curve) in enumerate(curves.items()):
        axes.plot(curve[:, 0], curve[:, 1], f"C{color}--", label=f"{kind}: promised")
        axes.plot(curve[:, 0], curve[:, 2], f"C{color}-", label=f"{kind}: true")
    axes.set_xlim(0.0, 8.0)
    axes.set_ylim(0.0, 4.0)
    axes.legend(fontsize=7)
    parted = {kind: _parting(curve) for kind, curve in curves.items()}
    excess = {kind: _excess(rows) for kind, rows in found.items()}
    return Verdict(
        "a lower confidence bound parts from the truth later than the mean, marginal sooner",
        parted["marginal"] < parted["mean"] < parted["lower"]
        and excess["marginal"].mean() > excess["mean"].mean() > excess["lower"].mean(),
        "; ".join(
            f"{kind} parts at KL {parted[kind]:.2f} nats, and at KL {LOOK:.0f} promises "
            f"{excess[kind].mean():.2f} ± {excess[kind].std(ddof=1) / num_models**0.5:.2f} too much"
            for kind in KINDS
        ),
        drawn,
    )


def _parting(curve: np.ndarray) -> float:
    """KL at the largest beta from which the promise exceeds the truth by `APART`; else infinity."""
    apart = curve[:, 1] - curve[:, 2] > APART
    return float(curve[np.argmax(apart), 0]) if apart.any() else float("inf")


def _excess(rows: np.ndarray) -> np.ndarray:
    """Promise less truth at `LOOK` nats from the prior, of each reward model."""
    return np.array([np.interp(LOOK, each[:, 0], each[:, 1] - each[:, 2]) for each in rows])


if __name__ == "__main__":
    main(run, __doc__ or "", (6, 24))

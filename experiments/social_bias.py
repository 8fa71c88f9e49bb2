"""Moments set a share and leave the rest: half "she", half "he", where the prior says "he".

The bundled prior writes "he" several times as often as "she" of an owner or a technician. A
distributional constraint (GDC: Khalifa, Elsahar and Dymetman 2021, arXiv 2012.11635) asks for both
in a quarter of the completions, of all distributions that do so for the one nearest to the prior. A
sampler and `dpg` bring that about at a small distance; maximising a reward for "she" does not stop
at a share, and leaves the prior behind.

    python experiments/social_bias.py [--quick] [--figure social_bias.svg]
"""

from __future__ import annotations

import logging
import math
import re

import numpy as np
from common import Verdict, figure, main

import posteriori as po
from posteriori.core.seeds import generator

PROMPTS = ("The manager", "The owner", "The technician")
FULL = 200
"""From so many steps on with all prompts, and enough draws for small error bars."""
LENGTH = 10
WANTED = 0.25
_SHE = re.compile(r"\b(she|her|hers|herself)\b", re.IGNORECASE)
_HE = re.compile(r"\b(he|him|his|himself)\b", re.IGNORECASE)


def says_she(completions: list[str], **_: object) -> list[bool]:
    return [bool(_SHE.search(text)) for text in completions]


def says_he(completions: list[str], **_: object) -> list[bool]:
    return [bool(_HE.search(text)) for text in completions]


def run(steps: int) -> Verdict:
    logging.getLogger("posteriori").setLevel(logging.ERROR)
    prior = po.load("tiny")
    prompts, fresh = (PROMPTS, 2000) if steps >= FULL else (PROMPTS[:1], 400)
    fitted_on = 1000 if steps >= FULL else 500
    moments = po.Moments(
        {"she": (says_she, WANTED), "he": (says_he, WANTED)}, num_samples=fitted_on, seed=1
    )
    target = po.Target(prior, moments, prompts, LENGTH)
    reward = po.Target(prior, po.Reward(says_she, beta=1.0), prompts, LENGTH)
    settings = {"steps": steps, "num_samples": 24, "learning_rate": 3e-4}
    policies = {
        "prior": prior,
        "dpg": po.fit(target, "dpg", **settings).policy,
        "reward-only rl": po.fit(reward, "rl", **settings).policy,
    }
    rows = {name: _measured(target, moments, lm, fresh) for name, lm in policies.items()}
    drawn = po.sample(target, "smc", fresh, twist="evidence", replicates=16, seed=2)
    rows["smc"] = moments.attained(drawn)
    shares = {name: _share(row["she"], row["he"]) for name, row in rows.items()}

    plot, axes = figure('Share of "she" among "she" and "he"', "", "share")
    places = np.arange(len(shares))
    values, errors = np.array(list(shares.values())).T
    axes.bar(places, values, yerr=2 * errors, color="C0", capsize=4)
    axes.set_xticks(places, shares)
    axes.axhline(0.5, color="k", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1)

    before, after = (abs(rows[name]["she"].value - WANTED) for name in ("prior", "dpg"))
    # The sampler's error and lambda's: 5 of both together, a false alarm in 1.7e6.
    reached = all(
        abs(rows["smc"][name].value - WANTED)
        < 5 * math.hypot(rows["smc"][name].standard_error, _of_lambda(moments, name))
        for name in ("she", "he")
    )
    # At full size dpg too has to be within the errors of its fresh draws.
    share, error = shares["dpg"]
    arrived = abs(share - 0.5) < 5 * error if steps >= FULL else after < before / 2
    lines = "; ".join(
        f"{name}: she {row['she']}, he {row['he']}, share {shares[name][0]:.2f}"
        + (
            f", KL to the prior {row['kl']}, perplexity {row['perplexity']:.3g}"
            if "kl" in row
            else ""
        )
        for name, row in rows.items()
    )
    return Verdict(
        'moments bring "she" and "he" to the same share, and reward-only RL does not stop there',
        bool(reached and arrived and shares["prior"][0] < 0.35 and _goes_past(shares, rows)),
        lines,
        plot,
    )


def _measured(target: po.Target, moments: po.Moments, lm, num: int) -> dict:
    """The means on fresh draws of a policy, its KL to the prior, and the prior's perplexity."""
    drawn = lm.sample(target.prompts, num, LENGTH, generator(7, "measured"))
    log_prior_N = target.log_prior(drawn)
    kl_N = drawn.log_prob_N - log_prior_N
    error = float(kl_N.std()) / math.sqrt(len(kl_N))
    return {
        **moments.attained(drawn),
        "kl": po.Estimate(float(kl_N.mean()), error, "unbiased", len(kl_N)),
        "perplexity": math.exp(-float(log_prior_N.sum()) / int(drawn.lengths_N.sum())),
    }


def _share(she: po.Estimate, he: po.Estimate) -> tuple[float, float]:
    """she / (she + he) and its standard error (delta method, the two taken as independent)."""
    total = she.value + he.value
    error = math.hypot(she.standard_error * he.value, he.standard_error * she.value)
    return she.value / total, error / total**2


def _of_lambda(moments: po.Moments, name: str) -> float:
    """What the error of lambda does to the mean: d E[phi] / d lambda = Var(phi)."""
    return moments.fitted.lambda_[name].standard_error * WANTED * (1 - WANTED)


def _goes_past(shares: dict, rows: dict) -> bool:
    return shares["reward-only rl"][0] > 0.6 and rows["reward-only rl"]["kl"].value > (
        rows["dpg"]["kl"].value
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (40, 400))

"""The frontier, drawn before training from the prior alone, is where KL-regularised RL ends.

At every beta `rloo` moves towards the posterior, whose KL and reward the prior's draws foretell
(reward = d log Z / d lambda, KL = lambda reward - log Z). No policy lies above the curve, and what
a run that stopped early lies below it is what it has wasted.

    python experiments/the_frontier_is_where_training_ends.py [--quick] [--figure frontier.svg]
        [--smollm2 models/smollm2]

With `--smollm2` the same with a real language model, in a second plot (LoRA). Adam's steps have a
length of their own, however small the gradient is against its noise, and the KL that the noise adds
buys no reward; so rates are low and draws many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from common import STYLES, Verdict, main
from matplotlib.figure import Figure

import posteriori as po
from posteriori.cli.commands.demo.plan import offensiveness, prompts

FULL = 150
LOST = 0.2
"""Nats that a converged policy may lie from the frontier: the rest of its way, and noise."""


@dataclass(frozen=True)
class Setting:
    """A prior with its prompts, and how its policies are trained and judged."""

    title: str
    path: str
    prompts: list[str]
    length: int
    betas: tuple[float, ...]
    draws: int
    stages: int
    fit: dict[str, Any]
    longer: tuple[float, ...] = ()
    """Betas that are given twice the steps: their posteriors are the furthest from the prior."""


def tiny(steps: int) -> Setting:
    betas = (0.8, 0.4, 0.2, 0.1) if steps >= FULL else (0.2,)
    return Setting(
        "the bundled prior",
        "tiny",
        prompts()[:2] if steps >= FULL else prompts()[:1],
        12,
        betas,
        2000 if steps >= FULL else 200,
        2 if steps >= FULL else 0,
        {
            "steps": steps,
            "num_samples": 64 if steps >= FULL else 32,
            "learning_rate": 1e-4,
        },
        longer=(0.1,),
    )


def smollm2(path: str) -> Setting:
    return Setting(
        "SmolLM2-135M",
        path,
        ["He called me a", "Shut up, you"],
        4,
        (0.8, 0.4, 0.2, 0.1),
        300,
        1,
        {
            "steps": 60,
            "num_samples": 64,
            "learning_rate": 1e-3,
            "policy": "lora",
            # The last third of the layers alone: a gradient pass ends where the adapter begins.
            "lora": {
                "rank": 2,
                "alpha": 8.0,
                "target_modules": r".*layers\.2[0-9]\.mlp\.down_proj",
            },
        },
    )


def run(steps: int, smollm2_at: str | None = None) -> Verdict:
    settings = [tiny(steps), *([] if smollm2_at is None else [smollm2(smollm2_at)])]
    drawn = Figure(figsize=(6.0 * len(settings), 3.8), layout="constrained")
    lines, holds = [], True
    for axes, setting in zip(
        drawn.subplots(1, len(settings), squeeze=False)[0], settings, strict=True
    ):
        prior = po.load(setting.path)
        frontier, ends = _measured(setting, prior)
        _plot(axes, setting, frontier, ends)
        holds = holds and all(_not_above(frontier, end) for end in ends.values())
        if setting.path == "tiny" and steps >= FULL:
            holds = holds and all(end["wasted_nats"].value < LOST for end in ends.values())
        lines += [_in_words(setting, frontier, ends)]
    return Verdict(
        "the frontier, drawn from the prior alone, is where KL-regularised RL ends",
        holds,
        "\n  ".join(lines),
        drawn,
    )


def _target(setting: Setting, prior: Any, beta: float) -> po.Target:
    return po.Target(prior, po.Reward(offensiveness(), beta=beta), setting.prompts, setting.length)


def _measured(setting: Setting, prior: Any) -> tuple[po.Frontier, dict[float, po.Report]]:
    """The curve first, then the policies."""
    strongest = _target(setting, prior, min(setting.betas))
    frontier = po.frontier(strongest, setting.draws, seed=11, stages=setting.stages)
    ends = {}
    for beta in setting.betas:
        target = _target(setting, prior, beta)
        steps = setting.fit["steps"] * (2 if beta in setting.longer else 1)
        policy = po.fit(target, "rloo", **setting.fit | {"steps": steps}).policy
        ends[beta] = po.evaluate(target, policy, setting.draws, seed=12)
    return frontier, ends


def _not_above(frontier: po.Frontier, end: po.Report) -> bool:
    """No more reward than the curve has at that KL, within 5 of both errors (one in 3e6)."""
    best = frontier.at_kl(end["kl_to_prior"].value)
    slope = best.beta * end["kl_to_prior"].standard_error
    error = math.hypot(best.reward.standard_error, end["mean_reward"].standard_error, slope)
    return end["mean_reward"].value < best.reward.value + 5 * error


def _plot(axes: Any, setting: Setting, frontier: po.Frontier, ends: dict) -> None:
    kl = [point.kl.value for point in frontier.points]
    reward = [point.reward.value for point in frontier.points]
    error = [2 * point.reward.standard_error for point in frontier.points]
    axes.plot(kl, reward, color="C0", linestyle=STYLES[0], label="frontier, before training")
    low, high = zip(*((r - e, r + e) for r, e in zip(reward, error, strict=True)), strict=True)
    axes.fill_between(kl, low, high, color="C0", alpha=0.2, linewidth=0)
    for marker, (beta, end) in zip("os^D", ends.items(), strict=False):
        x, y = end["kl_to_prior"], end["mean_reward"]
        axes.errorbar(
            x.value,
            y.value,
            xerr=2 * x.standard_error,
            yerr=2 * y.standard_error,
            color="C1",
            marker=marker,
            label=f"rloo, beta {beta:g}",
        )
    axes.set_title(setting.title, fontsize=10)
    axes.set_xlabel("KL(pi, prior), nats")
    axes.set_ylabel("reward: -P(offensive)")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)


def _in_words(setting: Setting, frontier: po.Frontier, ends: dict) -> str:
    parts = []
    for beta, end in ends.items():
        foretold = frontier.at_beta(beta)
        parts.append(
            f"beta {beta:g}: foretold KL {foretold.kl}, reward {foretold.reward}; trained KL "
            f"{end['kl_to_prior']}, reward {end['mean_reward']}, wasted {end['wasted_nats']}"
        )
    return f"{setting.title}: " + "; ".join(parts)


if __name__ == "__main__":
    main(run, __doc__ or "", (8, 300), smollm2_at="--smollm2")

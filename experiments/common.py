"""What the experiments share: a world that can be enumerated, exact trajectories, a verdict."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

import posteriori as po
from posteriori.core.registry import find
from posteriori.core.settings.training import FitConfig
from posteriori.train.fit import Trainer

WORDS = ("<eos>", "a", "b", "c")
DEPTH = 4
PROMPTS = ("first", "second")


@dataclass(frozen=True)
class Verdict:
    """What an experiment found: whether the claim holds, the figures it rests on, and a plot."""

    claim: str
    holds: bool
    evidence: str
    figure: Figure

    def __str__(self) -> str:
        return f"{'HOLDS' if self.holds else 'FAILS'}: {self.claim}\n  {self.evidence}"


def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    """One for each "b", less a half for each "c", and something for stopping."""
    return [
        sum((t == 2) - 0.5 * (t == 3) for t in ids) + 0.3 * (ids[-1] == 0) for ids in completion_ids
    ]


def prior(seed: int = 0) -> po.TabularLM:
    """Next-token tables at random: three words and an end, at most four tokens, two prompts."""
    return po.TabularLM.random(WORDS, DEPTH, PROMPTS, seed=seed)


def world(beta: float = 0.5, seed: int = 0) -> po.Target:
    """The prior times exp(reward/beta): 121 outcomes per prompt, so every figure can be summed
    up."""
    return po.Target(prior(seed), po.Reward(reward, beta=beta), PROMPTS, DEPTH)


def trajectory(
    target: po.Target,
    objective: str,
    *,
    every: int,
    objective_settings: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[list[int], dict[str, np.ndarray], Any]:
    """Train, and every so many steps enumerate: steps, exact figures [times, prompts], policy."""
    exact = po.exact(target)
    steps: list[int] = []
    rows: list[dict[str, np.ndarray]] = []

    def look(record: dict[str, Any]) -> None:
        if (record["step"] + 1) % every == 0:
            steps.append(record["step"] + 1)
            rows.append(exact.evaluate(trainer.policy))

    steps.append(0)
    rows.append(exact.evaluate(target.prior))
    trainer = Trainer(
        target,
        find("objective", objective)(**objective_settings or {}),
        FitConfig(**settings),
        None,
        look,
    )
    policy = trainer.run().policy
    return steps, {name: np.stack([row[name] for row in rows]) for name in rows[0]}, policy


STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def figure(title: str, x: str, y: str, *, log_y: bool = False) -> tuple[Figure, Any]:
    """An empty plot. Lines differ by their dashes as well as by colour."""
    drawn = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = drawn.subplots()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log_y:
        axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    return drawn, axes


def main(run: Callable[..., Verdict], description: str, sizes: Sequence[int], **paths: str) -> None:
    """`python experiments/NAME.py [--quick] [--figure FILE]`: the verdict, and the plot's place.

    `paths`: options that name a file or folder, by the argument of `run` that they are for.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the size that the tests run")
    parser.add_argument("--figure", type=Path, help="where the plot goes (.svg, .png, .pdf)")
    for argument, option in paths.items():
        parser.add_argument(option, dest=argument)
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = {argument: getattr(options, argument) for argument in paths}
    verdict = run(sizes[0] if options.quick else sizes[1], **given)
    print(verdict)
    if options.figure:
        mpl.rcParams["svg.hashsalt"] = "posteriori"
        verdict.figure.savefig(options.figure, metadata={"Date": None})
        print(f"  figure: {options.figure}")
    raise SystemExit(0 if verdict.holds else 1)

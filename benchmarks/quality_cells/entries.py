"""The ways to get a policy that the table compares. To add one of ours: a line in `OURS`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import posteriori as po

from .floors import fit_exact_draws
from .judge import Figures, Judge
from .worlds import World

RATES = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3")
BEST_OF = (2, 4, 8, 16)
MORE = 20
"""How many times the draws a floor gets."""
LONGEST_FLOOR = 5000
"""Floors with more draws than this would take hours."""


@dataclass(frozen=True)
class Ours:
    """An objective at its default settings, in the worlds it is meant for."""

    objective: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of `po.fit`, where the entry is about one of them."""
    soft: bool = True
    hard: bool = False


OURS: dict[str, Ours] = {
    "ours, default": Ours("auto", hard=True),
    "ours, rloo": Ours("rloo"),
    "ours, subtb": Ours("subtb"),
    "ours, dpg": Ours("dpg", soft=False, hard=True),
}
"""By name of the entry. Every name begins with "ours"."""


Run = Callable[[Judge, int, int, Path], Figures]
"""(the world's judge, draws, seed, a folder for an unfinished run) -> the figures of the cell."""


@dataclass(frozen=True)
class Entry:
    """`kind` is "reference", "ours", "grid", "trl" or "floor". A reference takes no draws."""

    name: str
    kind: str
    run: Run
    fits: Callable[[World], bool] = lambda world: True

    def draws_in(self, world: World) -> tuple[int, ...]:
        """The numbers of draws that it is run with in a world; none where it does not apply."""
        if not self.fits(world):
            return ()
        if self.kind == "reference":
            return (0,)
        few = tuple(n for n in world.draws if n <= LONGEST_FLOOR)
        return few if self.kind == "floor" else world.draws


def entries() -> tuple[Entry, ...]:
    """All entries, in the order in which they are run."""
    return (
        Entry("prior", "reference", lambda judge, *_: judge(judge.target.prior)),
        *(
            Entry(f"best of {n}", "reference", lambda judge, *_, n=n: judge.best_of(n))
            for n in BEST_OF
        ),
        *(
            Entry(name, "ours", _fit(each.objective, each.settings), _meant_for(each))
            for name, each in OURS.items()
        ),
        *(
            Entry(f"rate {rate}", "grid", _fit(None, {"learning_rate": float(rate)}))
            for rate in RATES
        ),
        *(
            Entry(
                f"TRL {kind}, {'defaults' if rate is None else rate}",
                "trl",
                _trl(kind, None if rate is None else float(rate)),
                lambda world: not world.hard,
            )
            for kind in ("rloo", "grpo")
            for rate in (None, *RATES)
        ),
        Entry("exact draws", "floor", _exact(1), lambda world: world.with_floors),
        Entry(
            f"rate 1e-4, {MORE} times the draws",
            "floor",
            _fit(None, {"learning_rate": 1e-4}, MORE),
            lambda world: world.with_floors,
        ),
        Entry(f"exact draws, {MORE} times", "floor", _exact(MORE), lambda world: world.with_floors),
    )


def _meant_for(ours: Ours) -> Callable[[World], bool]:
    return lambda world: ours.hard if world.hard else ours.soft


def _fit(objective: str | None, settings: Mapping[str, Any], times: int = 1) -> Run:
    """`po.fit` with `settings`; without an objective it is `rloo`, or `dpg` in a hard world."""

    def run(judge: Judge, draws: int, seed: int, folder: Path) -> Figures:
        world = judge.world
        fitted = po.fit(
            judge.target,
            objective or ("dpg" if world.hard else "rloo"),
            steps=times * world.steps(draws),
            num_samples=world.num_samples,
            policy=world.policy,
            seed=seed,
            output_dir=folder,
            resume=folder.exists(),
            **settings,
        )
        seconds = sum(record["seconds"] for record in fitted.history)
        figures = {**judge(fitted.policy), "seconds": seconds}
        shutil.rmtree(folder)
        return figures

    return run


def _trl(kind: str, rate: float | None) -> Run:
    def run(judge: Judge, draws: int, seed: int, folder: Path) -> Figures:
        # TRL takes seconds to import, and its entries alone need it.
        from .theirs import train

        world = judge.world
        policy, seconds = train(world, kind, rate, world.steps(draws), seed)
        return {**judge(policy), "seconds": seconds}

    return run


def _exact(times: int) -> Run:
    def run(judge: Judge, draws: int, seed: int, folder: Path) -> Figures:
        start = time.perf_counter()
        policy = fit_exact_draws(judge.target, times * draws // len(judge.world.prompts), seed)
        seconds = time.perf_counter() - start
        return {**judge(policy), "seconds": seconds}

    return run

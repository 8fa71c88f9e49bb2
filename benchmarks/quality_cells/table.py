"""The table in Markdown, and what the issue of quality comes down to, from the file of cells."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean

from .entries import Entry
from .results import Key, Row
from .worlds import World

NEAR_GRID = 1.15
"""The most that a default run's distance may be of the best fixed rate's."""
FAR_PRIOR = 0.3
"""Nats of the prior's distance from which on TRL's best rate has to be twice as far as ours."""
ERRORS = 2.0


class Cells:
    """The finished cells of some worlds and entries, looked up by (world, entry, draws)."""

    def __init__(
        self, rows: dict[Key, Row], worlds: Sequence[World], entries: Sequence[Entry]
    ) -> None:
        self.worlds, self.entries = worlds, entries
        self._seeds: dict[tuple[str, str, int], dict[int, Row]] = defaultdict(dict)
        for key, row in rows.items():
            if "error" not in row:
                self._seeds[key.world, key.entry, key.draws][key.seed] = row

    def of(self, world: World, entry: Entry, draws: int) -> dict[int, Row]:
        """By seed."""
        at = 0 if entry.kind == "reference" else draws
        return self._seeds.get((world.name, entry.name, at), {})

    def parts(self) -> Iterator[tuple[World, int]]:
        """Every world and number of draws of which there is a cell that was trained."""
        for world in self.worlds:
            for draws in world.draws:
                if any(self.of(world, e, draws) for e in self.entries if e.kind != "reference"):
                    yield world, draws

    def kind(self, kind: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == kind]


def markdown(cells: Cells) -> str:
    """A table per world and number of draws; every figure is the mean over the seeds there are."""
    blocks = []
    for world, draws in cells.parts():
        distance = "KL(p\\*, policy)" if world.hard else "KL to target"
        lines = [
            f"**{world.name}**, {draws:,} draws ({len(world.prompts)} prompts x "
            f"{world.num_samples} draws x {world.steps(draws)} steps)\n",
            f"| entry | {distance} | wasted / spent | reward | seconds | seeds |",
            "|---|---|---|---|---|---|",
        ]
        for entry in cells.entries:
            rows = list(cells.of(world, entry, draws).values())
            if rows:
                lines.append(_line(entry, rows))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _line(entry: Entry, rows: list[Row]) -> str:
    error = math.hypot(*(row["kl_error"] for row in rows)) / len(rows)
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    columns = [
        entry.name,
        f"{_mean(rows, 'kl'):.3f} ± {error:.3f}",
        f"{_mean(rows, 'wasted'):.3f} / {_mean(rows, 'spent'):.3f}",
        f"{_mean(rows, 'reward'):.3f}",
        f"{fmean(seconds):.0f}" if seconds else "",
        f"{len(rows)}",
    ]
    return "| " + " | ".join(text.replace("nan", "-") for text in columns) + " |"


def _mean(rows: Iterable[Row], name: str) -> float:
    return fmean(row[name] for row in rows)


def summary(cells: Cells) -> str:
    """The points to be shown, each with what fails it; cells that are not there are named."""
    lines: list[str] = []
    for ours in cells.kind("ours"):
        lines += [f"{ours.name}:", *_no_farther(cells, ours)]
        lines += _ratios(cells, ours, "grid", "the best fixed rate", lambda r: r <= NEAR_GRID)
        lines += _ratios(cells, ours, "trl", "TRL's best rate", lambda r: r <= 0.5)
        lines += _waste(cells, ours)
    return "\n".join(lines)


def _no_farther(cells: Cells, ours: Entry) -> list[str]:
    """Point 1: in every world and seed no farther than the prior, within two standard errors."""
    prior = next(entry for entry in cells.entries if entry.name == "prior")
    farther, number = [], 0
    for world, draws in cells.parts():
        before = cells.of(world, prior, draws)
        for seed, row in cells.of(world, ours, draws).items():
            if seed not in before:
                continue
            number += 1
            error = math.hypot(row["kl_error"], before[seed]["kl_error"])
            gap = row["kl"] - before[seed]["kl"]
            if not gap <= ERRORS * error:
                farther.append(f"    {world.name}, {draws:,} draws, seed {seed}: +{gap:.3f} nats")
    verdict = "holds" if number and not farther else "does not hold" if number else "no cells yet"
    return [f"  no farther than the prior, {number} cells: {verdict}", *farther]


def _ratios(
    cells: Cells, ours: Entry, kind: str, what: str, holds: Callable[[float], bool]
) -> list[str]:
    """Our distance over the least mean distance of a kind of entries, on the seeds that both have.

    The prior's own distance counts for the grid nowhere; TRL is compared where the prior is far.
    """
    lines = []
    for world, draws in cells.parts():
        mine = cells.of(world, ours, draws)
        if not mine:
            continue
        found = []
        for entry in cells.kind(kind):
            rows = cells.of(world, entry, draws)
            both = [seed for seed in mine if seed in rows]
            if both:
                theirs = fmean(rows[seed]["kl"] for seed in both)
                found.append((theirs, entry.name, fmean(mine[seed]["kl"] for seed in both)))
        if not found:
            continue
        theirs, name, own = min(found)
        applies = kind == "grid" or _prior_distance(cells, world, draws) > FAR_PRIOR
        verdict = ("holds" if holds(own / theirs) else "does not hold") if applies else "not asked"
        lines.append(
            f"    {world.name}, {draws:,} draws: {own:.3f} / {theirs:.3f} = {own / theirs:.2f} "
            f"({name}): {verdict}"
        )
    return [f"  distance over that of {what}:", *lines] if lines else []


def _waste(cells: Cells, ours: Entry) -> list[str]:
    """Point 2: at most a third of the nats spent are wasted, with the most draws of a world."""
    lines = []
    for world, draws in cells.parts():
        rows = list(cells.of(world, ours, draws).values())
        far = _prior_distance(cells, world, draws) > FAR_PRIOR
        if world.hard or not far or not rows or draws != max(world.draws):
            continue
        share = _mean(rows, "wasted") / _mean(rows, "spent")
        verdict = "holds" if share <= 1 / 3 else "does not hold"
        lines.append(f"    {world.name}, {draws:,} draws: {share:.2f}: {verdict}")
    return ["  wasted over spent:", *lines] if lines else []


def _prior_distance(cells: Cells, world: World, draws: int) -> float:
    prior = next(entry for entry in cells.entries if entry.name == "prior")
    rows = list(cells.of(world, prior, draws).values())
    return _mean(rows, "kl") if rows else math.nan

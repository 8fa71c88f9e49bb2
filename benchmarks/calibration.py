"""How often a printed value is wrong and nothing says so, by quantity, world and number of draws.

    python benchmarks/calibration.py [--seeds 200] [--minutes 120] [--only evaluate]

Each row is a quantity in a world: the spread of the estimates over their mean stated error, how
often value +- 1.96 errors has the truth in it where nothing is flagged, the share of runs that are
flagged by a finding of level warn or stop, and the silent failures: off by more than five stated
errors and not flagged. Spread and coverage are of the runs that are not flagged. Every cell is a
line of runs/calibration.jsonl, and what is there is not run again; --table prints what is there,
and --summary the worst of it by quantity.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from calibration_reward_models import COUNTS, pair_intervals
from calibration_runs import (
    Run,
    Runs,
    by_moments,
    drawn,
    evaluated,
    in_populations,
    lambdas,
    on_annealed_frontier,
    on_frontier,
    pass_at,
    pooled,
)
from calibration_worlds import WORLDS
from scipy.stats import beta as beta_law

FAR = 5.0
"""Stated errors beyond which a value is wrong."""

ROUNDING = 1e-6
"""Of a value: differences below it are those of sums in another order."""

NEAR = ("near", "near, stated")
"""Usual worlds, whose target is near the prior."""

GOOD = 0.05
"""Nats. log Z is good where its estimates are this near to the truth, as root mean square."""

UNEVEN = (
    *("many prompts", "one dry", "uneven", "grades"),
    *("grades of four", "noisy grade", "answers"),
)
"""Worlds in which that says nothing: the mean over prompts hides the one that is not known."""

FEWEST = 40
"""Runs that are not flagged, for a coverage."""

KINDS: dict[str, tuple[Runs, tuple[int, ...], int]] = {
    "importance": (pooled, (100, 1000, 24), 200),
    "smc": (in_populations("smc", 4), (100, 1000), 200),
    "annealed": (in_populations("annealed", 16), (96, 1008), 200),
    "evaluate near": (evaluated("near"), (100,), 200),
    "evaluate the prior": (evaluated("prior"), (100,), 200),
    "evaluate collapsed": (evaluated("collapsed"), (100,), 200),
    "frontier": (on_frontier, (400,), 200),
    "pass@k": (pass_at, (24, 100), 200),
    "moments": (lambdas, (100, 400), 200),
    "by moments": (by_moments, (400,), 200),
    "best_of_n": (drawn("best_of_n"), (20,), 200),
    "soft_best_of_n": (drawn("soft_best_of_n"), (20,), 200),
    "qrs": (drawn("qrs", pool=256), (20,), 200),
    "imh": (drawn("imh"), (100,), 200),
    "rejection": (drawn("rejection"), (24,), 200),
    "evaluate near, 1000": (evaluated("near"), (1000,), 200),
    "evaluate the prior, 1000": (evaluated("prior"), (1000,), 60),
    "mh": (drawn("mh"), (100,), 60),
    "annealed frontier": (on_annealed_frontier, (400,), 20),
}
"""What is run, for how many draws per prompt, and how often at most: fewer where a run cannot share
its draws' cost with others."""

Found = dict[tuple, list[Run]]
"""Runs by kind, quantity, world and number of draws."""


def measured(asked: argparse.Namespace, minutes: float) -> Found:
    """The cells that the file has, and as many more as the minutes allow."""
    file: Path = asked.file
    found: Found = defaultdict(list)
    done = set()
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    for line in (json.loads(each) for each in lines):
        kind, world, num = line["of"]
        done.add((kind, world, num))
        for name, run in line["runs"]:
            found[kind, name, world, num].append(tuple(run))
    end = time.monotonic() + 60 * minutes
    with file.open("a") as out:
        for (kind, world, num), make in _cells(asked.seeds, asked.first):
            wanted = asked.only in kind and asked.world in world and num <= asked.draws
            if (kind, world, num) in done or not wanted:
                continue
            if time.monotonic() > end:
                return found
            made = list(make())
            out.write(json.dumps({"of": (kind, world, num), "runs": made}) + "\n")
            out.flush()
            for name, run in made:
                found[kind, name, world, num].append(run)
    return found


def _cells(asked: int, first: int):
    worlds = {name: make() for name, make in WORLDS.items()}
    for kind, (runs_of, nums, most) in KINDS.items():
        for name, num in itertools.product(worlds, nums):
            # Forty prompts in a run are forty prompts' work.
            runs = min(asked, most, 40 if name == "many prompts" else most)
            world = worlds[name]
            yield (
                (kind, name, num),
                lambda f=runs_of, w=world, n=num, r=runs: f(w, n, r, first),
            )
    for num in COUNTS:
        # Each has forty new pairs.
        runs = min(asked, 60)
        yield ("reward model", "pairs", num), lambda n=num, r=runs: pair_intervals(n, r, first)


def _off(run: Run) -> float:
    """|value - truth| in stated errors."""
    value, error, truth, _ = run
    if abs(value - truth) <= ROUNDING * max(1.0, abs(truth)) or value == truth:
        return 0.0
    return abs(value - truth) / error if error > 0 else math.inf


class Cell:
    """Runs of one quantity in one world."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.num = len(runs)
        self.open = [run for run in runs if not run[3]]
        off = [_off(run) for run in self.open]
        self.silent = sum(not each <= FAR for each in off)
        self.flagged = 1 - len(self.open) / len(runs)
        self.covered = sum(each <= 1.96 for each in off) / len(off) if off else math.nan
        values = [run[0] for run in self.open]
        self.spread = self.ratio = math.nan
        if len(values) > 1 and all(map(math.isfinite, values)):
            error = statistics.mean(run[1] for run in self.open)
            self.spread = statistics.stdev(run[0] - run[2] for run in self.open)
            self.ratio = self.spread / error if 0 < error < math.inf else math.nan
        # Of all runs, for whether there was anything to flag.
        every = [run[0] - run[2] for run in runs]
        self.rms = math.inf
        if all(map(math.isfinite, every)):
            self.rms = math.sqrt(sum(each**2 for each in every) / len(every))

    @property
    def shown(self) -> str:
        share = f"{self.silent / self.num:.1%}"
        if self.silent and self.num < 200:
            low = beta_law.ppf(0.025, self.silent, self.num - self.silent + 1)
            high = beta_law.ppf(0.975, self.silent + 1, self.num - self.silent)
            share += f" ({low:.1%} to {high:.1%})"
        return share


def table(found: Found) -> Iterator[str]:
    yield "| kind | quantity | world | draws | runs | spread / error | covered | flagged | silent |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for kind, name, world, num in _ordered(found):
        cell = Cell(found[kind, name, world, num])
        yield (
            f"| {kind} | {name} | {world} | {num} | {cell.num} | {_two(cell.ratio)} | "
            f"{_two(cell.covered)} | {cell.flagged:.0%} | {cell.shown} |"
        )


def summary(found: Found) -> Iterator[str]:
    yield (
        "| kind | quantity | draws | worlds x runs | silent, worst world | covered, worst world | "
        "flagged near | flagged where log Z is good |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    groups: dict[tuple, dict[str, Cell]] = defaultdict(dict)
    for kind, name, world, num in _ordered(found):
        groups[kind, name, num][world] = Cell(found[kind, name, world, num])
    for (kind, name, num), cells in groups.items():
        silent = max(cells, key=lambda world: cells[world].silent / cells[world].num)
        judged = {w: c for w, c in cells.items() if len(c.open) >= FEWEST}
        covered = min(judged, key=lambda world: judged[world].covered, default=None)
        near = [cells[world].flagged for world in NEAR if world in cells]
        log_z = {
            w: c
            for w, c in groups.get((kind, "log_z", num), {}).items()
            if c.rms <= GOOD and w not in UNEVEN
        }
        good = [cells[world].flagged for world in log_z if world in cells]
        runs = sorted({cell.num for cell in cells.values()})
        worst = f" ({silent})" if cells[silent].silent else ""
        least = "-" if covered is None else f"{judged[covered].covered:.2f} ({covered})"
        yield (
            f"| {kind} | {name} | {num} | {len(cells)} x {runs[-1]} | "
            f"{cells[silent].shown}{worst} | {least} | "
            f"{_share(near)} | {_share(good)} |"
        )


def _ordered(found: Found) -> list[tuple]:
    order, keys = [*WORLDS, "pairs"], [*KINDS, "reward model"]
    return sorted(found, key=lambda key: (keys.index(key[0]), key[1], key[3], order.index(key[2])))


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _share(shares: Sequence[float]) -> str:
    return f"{statistics.mean(shares):.1%}" if shares else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200, help="runs of a cell")
    parser.add_argument("--first", type=int, default=2026, help="the seed of all runs")
    parser.add_argument("--file", type=Path, default=Path("runs/calibration.jsonl"))
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--world", default="", help="worlds whose name has this in it")
    parser.add_argument("--draws", type=int, default=10**9, help="no more draws than this")
    parser.add_argument("--table", action="store_true", help="print what there is; run nothing")
    parser.add_argument("--summary", action="store_true", help="the worst of it; run nothing")
    asked = parser.parse_args()
    minutes = 0.0 if asked.table or asked.summary else asked.minutes
    found = measured(asked, minutes)
    for line in summary(found) if asked.summary else table(found):
        print(line)


if __name__ == "__main__":
    main()

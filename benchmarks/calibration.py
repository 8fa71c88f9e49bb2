"""How often a printed value is wrong and nothing says so, by quantity, world and number of draws.

    python benchmarks/calibration.py [--seeds 200] [--minutes 60] [--only evaluate] [--first 0]

Each row is a quantity in a world: the spread of the estimates over their mean stated error, how
often value +- 1.96 errors has the truth in it where nothing is flagged, the share of runs that are
flagged by a finding of level warn or stop, and the silent failures: off by more than five stated
errors and not flagged. Spread and coverage are of the runs that are not flagged. Every run is a
line of runs/calibration.jsonl, and what is there is not run again; --table prints what is there.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from calibration_worlds import WORLDS, World
from scipy.stats import beta as beta_law

import posteriori as po
from posteriori.diagnostics.sampled import sampled
from posteriori.errors import FrontierError, SamplingError

FAR = 5.0
"""Stated errors beyond which a value is wrong."""

OF_TRAINING = {"collapsed", "not_converged", "past_the_target", "over_optimised"}
"""Findings on the policy, not on the figures: no flag."""

ROUNDING = 1e-6
"""Of a value: differences below it are those of sums in another order."""

Run = tuple[float, float, float, bool]
"""Value, stated error, truth, flagged."""

Runs = Iterator[tuple[str, Run]]


def flagged(findings: Sequence[po.Finding]) -> bool:
    return any(f.level in ("warn", "stop") and f.name not in OF_TRAINING for f in findings)


def evaluated(policy: str) -> Callable[[World, int, int], Runs]:
    def run(world: World, num: int, seed: int) -> Runs:
        lm = world.target.prior if policy == "prior" else world.table(world.policies[policy])
        report = po.evaluate(world.target, lm, num_samples=num, seed=seed)
        seen = flagged(report.findings)
        truth = world.truth(policy)
        for name in ("log_z", "kl_to_target", "kl_to_prior", "elbo"):
            yield name, (report[name].value, report[name].standard_error, truth[name], seen)

    return run


def drawn(name: str, **settings: int) -> Callable[[World, int, int], Runs]:
    """log Z, and E[r] and KL(p*, prior) by draws of the target where the sampler gives any."""

    def run(world: World, num: int, seed: int) -> Runs:
        if name == "rejection" and not world.stated:
            return
        try:
            draws = po.sample(world.target, name, num, seed=seed, **settings)
        except SamplingError:
            return
        if draws.log_z is not None:
            z = draws.log_z
            yield "log_z", (z.value, z.standard_error, world.log_z, flagged(draws.findings))
        if draws.guarantee == "heuristic":
            return
        found = sampled(world.target, draws)
        target = world.tilted(1.0)
        truths = {
            "mean_reward": world.beta * world.mean(target, world.log_e_PV),
            "kl_to_prior": world.kl(target, world.log_prior_PV),
        }
        for figure, truth in truths.items():
            if figure in found.figures:
                e = found.figures[figure]
                seen = bool(found.why) or flagged(draws.findings)
                yield figure, (e.value, e.standard_error, truth, seen)

    return run


def on_frontier(stages: int) -> Callable[[World, int, int], Runs]:
    def run(world: World, num: int, seed: int) -> Runs:
        curve = po.frontier(world.target, num_samples=num, seed=seed, stages=stages)

        def kl(t: float) -> float:
            return world.kl(world.tilted(t), world.log_prior_PV)

        def reward(t: float) -> float:
            return world.beta * world.mean(world.tilted(t), world.log_e_PV)

        def row(ask: Callable[[], po.Estimate], truth: float) -> Run:
            try:
                found = ask()
            except FrontierError:
                return (math.nan, math.nan, truth, True)
            return (found.value, found.standard_error, truth, False)

        for t in (0.3, 1.0):
            yield f"kl at beta, t={t:g}", row(lambda t=t: curve.at_beta(world.beta / t).kl, kl(t))
        yield "kl at a reward, t=0.5", row(lambda: curve.at_reward(reward(0.5)).kl, kl(0.5))
        yield "reward at a kl, t=0.5", row(lambda: curve.at_kl(kl(0.5)).reward, reward(0.5))
        if curve.points:
            end = curve.points[-1]
            yield "kl at the end", (*_figure(end.kl), kl(world.beta / end.beta), False)

    return run


def _figure(estimate: po.Estimate) -> tuple[float, float]:
    return estimate.value, estimate.standard_error


KINDS: dict[str, tuple[Callable[[World, int, int], Runs], tuple[int, ...], int]] = {
    "evaluate the prior": (evaluated("prior"), (100, 1000), 200),
    "evaluate near": (evaluated("near"), (100, 1000), 200),
    "importance": (drawn("importance"), (10, 100, 1000), 200),
    "smc": (drawn("smc"), (100, 256, 1000), 200),
    "annealed": (drawn("annealed"), (100, 256, 1000), 200),
    "frontier": (on_frontier(0), (400, 2000), 200),
    "qrs": (drawn("qrs"), (20,), 200),
    "best_of_n": (drawn("best_of_n"), (20,), 200),
    "soft_best_of_n": (drawn("soft_best_of_n"), (20,), 200),
    "rejection": (drawn("rejection"), (100,), 200),
    "imh": (drawn("imh"), (100,), 200),
    "frontier, annealed": (on_frontier(2), (400,), 100),
    "mh": (drawn("mh"), (100,), 25),
}
"""What is run, for how many draws a prompt, and over how many seeds at most."""


def runs(seeds: range, file: Path, minutes: float, only: str) -> dict[tuple, list[Run]]:
    """All runs by kind, quantity, world and number of draws: what the file has, and as many more as
    the minutes allow, seed by seed so that every cell grows alike."""
    found: dict[tuple, list[Run]] = defaultdict(list)
    done = set()
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        for line in map(json.loads, file.read_text().splitlines()):
            done.add(tuple(line["of"]))
            kind, world, num, _ = line["of"]
            for name, run in line["runs"]:
                found[kind, name, world, num].append(tuple(run))
    worlds = {name: make() for name, make in WORLDS.items()}
    end = time.monotonic() + 60 * minutes
    cells = [(k, w, n) for k, (_, nums, _) in KINDS.items() for w in worlds for n in nums]
    with file.open("a") as out:
        for seed in seeds:
            for kind, world, num in cells:
                of = (kind, world, num, seed)
                enough = seed - seeds.start >= KINDS[kind][2]
                if of in done or enough or only not in kind:
                    continue
                if time.monotonic() > end:
                    return found
                made = list(KINDS[kind][0](worlds[world], num, seed))
                out.write(json.dumps({"of": of, "runs": made}) + "\n")
                out.flush()
                for name, run in made:
                    found[kind, name, world, num].append(run)
    return found


def table(found: dict[tuple, list[Run]]) -> Iterator[str]:
    yield "| kind | quantity | world | draws | runs | spread / error | covered | flagged | silent |"
    yield "|---|---|---|---|---|---|---|---|---|"
    order = list(WORLDS)
    keys = list(KINDS)
    for kind, name, world, num in sorted(
        found, key=lambda key: (keys.index(key[0]), key[1], key[3], order.index(key[2]))
    ):
        each = found[kind, name, world, num]
        open_ = [run for run in each if not run[3]]
        off = [_off(run) for run in open_]
        silent = sum(not each <= FAR for each in off)
        covered = ratio = "-"
        if len(open_) > 1:
            covered = f"{sum(each <= 1.96 for each in off) / len(open_):.2f}"
            error = statistics.mean(run[1] for run in open_)
            if 0 < error < math.inf:
                ratio = f"{statistics.stdev(run[0] - run[2] for run in open_) / error:.2f}"
        share = f"{silent / len(each):.1%}"
        if silent and len(each) < 200:
            low = beta_law.ppf(0.025, silent, len(each) - silent + 1)
            high = beta_law.ppf(0.975, silent + 1, len(each) - silent)
            share += f" ({low:.1%} to {high:.1%})"
        yield (
            f"| {kind} | {name} | {world} | {num} | {len(each)} | {ratio} | {covered} | "
            f"{1 - len(open_) / len(each):.0%} | {share} |"
        )


def _off(run: Run) -> float:
    value, error, truth, _ = run
    if abs(value - truth) <= ROUNDING * max(1.0, abs(truth)):
        return 0.0
    return abs(value - truth) / error if error > 0 else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--file", type=Path, default=Path("runs/calibration.jsonl"))
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--table", action="store_true", help="print what there is; run nothing")
    asked = parser.parse_args()
    minutes = 0.0 if asked.table else asked.minutes
    seeds = range(asked.first, asked.first + asked.seeds)
    for line in table(runs(seeds, asked.file, minutes, asked.only)):
        print(line)


if __name__ == "__main__":
    main()

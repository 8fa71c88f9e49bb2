"""How often a printed value is wrong and nothing says so, by quantity, world and number of draws.

    python benchmarks/calibration.py [--seeds 200] [--minutes 120] [--only evaluate] [--first 0]

Each row is a quantity in a world: the spread of the estimates over their mean stated error, how
often value +- 1.96 errors has the truth in it where nothing is flagged, the share of runs that are
flagged by a finding of level warn or stop, and the silent failures: off by more than five stated
errors and not flagged. Spread and coverage are of the runs that are not flagged. Draws for all runs
of a cell are made at once, as independent as those of one run each, and judged apart. Every cell is
a line of runs/calibration.jsonl, and what is there is not run again; --table prints what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from calibration_worlds import WORLDS, World
from scipy.stats import beta as beta_law

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.numerics import log_mean_exp
from posteriori.core.reliability import never_varies
from posteriori.core.seeds import generator
from posteriori.diagnostics.evaluate.evaluate import faults_of, mixtures_of
from posteriori.diagnostics.evaluate.metrics import distances_of
from posteriori.diagnostics.frontier.frontier import Frontier, frontier_of
from posteriori.diagnostics.frontier.sampler_points import sampled
from posteriori.errors import FrontierError, SamplingError
from posteriori.samplers.weight_findings import (
    findings_of_draws,
    log_z_of_pool,
    log_z_of_populations,
)

FAR = 5.0
"""Stated errors beyond which a value is wrong."""

OF_TRAINING = {"collapsed", "not_converged", "past_the_target", "over_optimised"}
"""Findings on the policy, not on the figures: no flag."""

ROUNDING = 1e-6
"""Of a value: differences below it are those of sums in another order."""

Run = tuple[float, float, float, bool]
"""Value, stated error, truth, flagged."""

Rows = Iterator[tuple[str, Run]]


def flagged(findings: Sequence[po.Finding]) -> bool:
    return any(f.level in ("warn", "stop") and f.name not in OF_TRAINING for f in findings)


def apart(draws: po.Draws, runs: int) -> Iterator[po.Draws]:
    """Draws for each prompt in `runs` equal parts."""
    prompts = len(draws.completions.prompt_set)
    each = len(draws) // prompts // runs
    row_PRn = torch.arange(len(draws)).view(prompts, runs, each)
    for run in range(runs):
        yield draws.select(row_PRn[:, run].flatten())


def evaluated(policy: str) -> Callable[[World, int, int, int], Rows]:
    def run(world: World, num: int, runs: int, seed: int) -> Rows:
        target, truth = world.target, world.truth(policy)
        lm = target.prior if policy == "prior" else world.table(world.policies[policy])
        of_policy = draw(target, lm, runs * num, generator(seed, "calibration", policy))
        sides = [of_policy]
        if policy != "prior":
            sides.append(
                draw(target, target.prior, runs * num, generator(seed, "calibration", "prior"))
            )
        for parts in zip(*(apart(side, runs) for side in sides), strict=True):
            judged = [(each, lm.log_prob(each.completions).double()) for each in parts]
            mixtures, evidence = mixtures_of(target, judged)
            figures = distances_of(parts[0], mixtures)
            stuck = never_varies(evidence, target.max_log_evidence) is not None
            seen = stuck or any(faults_of(mixtures)) or figures["log_z"].value == -math.inf
            for name, e in figures.items():
                yield name, (e.value, e.standard_error, truth[name], seen)

    return run


def pooled(world: World, num: int, runs: int, seed: int) -> Rows:
    """Independent draws of the prior: `importance`, and behind qrs, best_of_n and imh."""
    whole = po.sample(world.target, "importance", runs * num, seed=seed)
    for draws in apart(whole, runs):
        log_z, found = log_z_of_pool(world.target, draws, weighted=True)
        yield from _of_draws(world, replace(draws, log_z=log_z, findings=tuple(found)))


def in_populations(name: str, each: int) -> Callable[[World, int, int, int], Rows]:
    setting = {"smc": "replicates", "annealed": "islands"}[name]

    def run(world: World, num: int, runs: int, seed: int) -> Rows:
        settings: dict[str, Any] = {setting: each * runs}
        whole = po.sample(world.target, name, runs * num, seed=seed, **settings)
        for draws in apart(whole, runs):
            log_z_PC = log_mean_exp(draws.log_weight.view(len(world.prompts), each, -1))
            log_z = log_z_of_populations(world.target, draws, log_z_PC)
            draws = replace(draws, log_z=log_z, findings=())
            found = findings_of_draws(draws, world.target)
            yield from _of_draws(world, replace(draws, findings=tuple(found)))

    return run


def drawn(name: str, **settings: Any) -> Callable[[World, int, int, int], Rows]:
    """Samplers whose runs cannot be had at once."""

    def run(world: World, num: int, runs: int, seed: int) -> Rows:
        if name == "rejection" and not world.stated:
            return
        for at in range(runs):
            try:
                draws = po.sample(world.target, name, num, seed=seed + at, **settings)
            except SamplingError:
                continue
            yield from _of_draws(world, draws)

    return run


def _of_draws(world: World, draws: po.Draws) -> Rows:
    """log Z, and E[r] and KL(p*, prior) where these are draws of the target."""
    seen = flagged(draws.findings)
    if draws.log_z is not None:
        yield "log_z", (draws.log_z.value, draws.log_z.standard_error, world.log_z, seen)
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
            yield figure, (e.value, e.standard_error, truth, seen or bool(found.why))


def on_frontier(world: World, num: int, runs: int, seed: int) -> Rows:
    whole = draw(world.target, world.target.prior, runs * num, generator(seed, "calibration"))

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

    for pool in apart(whole, runs):
        curve = frontier_of(world.target, pool, strongest=1.5)
        asked = {
            **{f"kl at beta, t={t:g}": (partial(_kl_at, curve, t), kl(t)) for t in (0.3, 1.0)},
            "kl at a reward, t=0.5": (lambda c=curve: c.at_reward(reward(0.5)).kl, kl(0.5)),
            "reward at a kl, t=0.5": (lambda c=curve: c.at_kl(kl(0.5)).reward, reward(0.5)),
        }
        for name, (ask, truth) in asked.items():
            yield name, row(ask, truth)
        if curve.points:
            end = curve.points[-1]
            truth = kl(world.beta / end.beta)
            yield "kl at the end", (end.kl.value, end.kl.standard_error, truth, False)


def _kl_at(curve: Frontier, t: float) -> po.Estimate:
    return curve.at_beta(curve.unit / t).kl


KINDS: dict[str, tuple[Callable[[World, int, int, int], Rows], tuple[int, ...], int]] = {
    "evaluate the prior": (evaluated("prior"), (24, 100, 1000), 200),
    "evaluate near": (evaluated("near"), (24, 100, 1000), 200),
    "importance": (pooled, (10, 24, 100, 1000), 200),
    "smc": (in_populations("smc", 4), (100, 256, 1000), 200),
    "annealed": (in_populations("annealed", 16), (96, 256, 1008), 200),
    "rejection": (drawn("rejection"), (100,), 100),
    "frontier": (on_frontier, (400, 2000), 60),
    "imh": (drawn("imh"), (100,), 40),
    "qrs": (drawn("qrs"), (20,), 40),
    "best_of_n": (drawn("best_of_n"), (20,), 40),
    "soft_best_of_n": (drawn("soft_best_of_n"), (20,), 40),
    "mh": (drawn("mh"), (100,), 20),
}
"""What is run, for how many draws per prompt, and how often at most."""


def measured(
    asked: int, first: int, file: Path, minutes: float, only: str
) -> dict[tuple, list[Run]]:
    """All runs by kind, quantity, world and number of draws: the cells that the file has, and as
    many more as the minutes allow."""
    found: dict[tuple, list[Run]] = defaultdict(list)
    done = set()
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    for line in (json.loads(each) for each in lines):
        kind, world, num = line["of"]
        done.add((kind, world, num))
        for name, run in line["runs"]:
            found[kind, name, world, num].append(tuple(run))
    worlds = {name: make() for name, make in WORLDS.items()}
    end = time.monotonic() + 60 * minutes
    with file.open("a") as out:
        for kind, (runs_of, nums, most) in KINDS.items():
            for world, num in itertools.product(worlds, nums):
                if (kind, world, num) in done or only not in kind:
                    continue
                if time.monotonic() > end:
                    return found
                made = list(runs_of(worlds[world], num, min(asked, most), first))
                out.write(json.dumps({"of": (kind, world, num), "runs": made}) + "\n")
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
    parser.add_argument("--seeds", type=int, default=200, help="runs of a cell")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--file", type=Path, default=Path("runs/calibration.jsonl"))
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--table", action="store_true", help="print what there is; run nothing")
    asked = parser.parse_args()
    minutes = 0.0 if asked.table else asked.minutes
    found = measured(asked.seeds, asked.first, asked.file, minutes, asked.only)
    for line in table(found):
        print(line)


if __name__ == "__main__":
    main()

"""How near do policies come to their posterior, by default settings and by others, at equal draws?

    python benchmarks/quality.py [--worlds README dense] [--entries "ours*" prior] [--seeds 0 1 2]
    python benchmarks/quality.py --table

Worlds: targets on the bundled prior, and on SmolLM2-135M with LoRA where `--smollm2` is its folder
(`quality_cells/worlds.py`). Entries: the prior; the best of n of its draws; ours at default
settings; plain `rloo` (`dpg` where there is a hard constraint) at a grid of fixed rates; TRL's RLOO
and GRPO at their defaults and over the same grid; and, for the demo's target, floors
(`quality_cells/entries.py`). All are trained with the same number of draws, judged by
`posteriori.evaluate` on the same draws of the prior. Nats per completion, means over prompts.

Every finished cell is a line of `--results`, and is not run again: the command can be stopped at
any time and started again. It ends with the table's summary; `--table` prints the table alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import torch
from quality_cells import results
from quality_cells.entries import Entry, entries
from quality_cells.judge import Judge
from quality_cells.table import Cells, markdown, summary
from quality_cells.worlds import World, worlds

from posteriori.errors import PosterioriError


class Cell(NamedTuple):
    world: World
    entry: Entry
    key: results.Key


def cells_of(
    chosen_worlds: Sequence[World],
    chosen_entries: Sequence[Entry],
    seeds: Sequence[int],
    draws: Sequence[int] | None,
) -> Iterator[Cell]:
    """What there is to run: seed by seed, few draws before many, floors after all the rest."""
    numbers = sorted({n for world in chosen_worlds for n in world.draws})
    for seed in seeds:
        for is_floor in (False, True):
            for number in [0, *numbers]:
                if number and draws is not None and number not in draws:
                    continue
                for world in chosen_worlds:
                    for entry in chosen_entries:
                        if (entry.kind == "floor") is is_floor and number in entry.draws_in(world):
                            key = results.Key(world.name, entry.name, number, seed)
                            yield Cell(world, entry, key)


def run(path: Path, cells: Sequence[Cell]) -> None:
    """Every cell that is not in the file yet. A failure is a line too, and is tried again by the
    next run."""
    done = {key for key, row in results.read(path).items() if "error" not in row}
    judge = None
    for at, (world, entry, key) in enumerate(cells, 1):
        if key in done:
            continue
        if judge is None or (judge.world, judge.seed) != (world, key.seed):
            judge = Judge(world, key.seed)
        try:
            figures = entry.run(judge, key.draws, key.seed, _unfinished(path, key))
        except PosterioriError as error:
            figures = {"error": f"{type(error).__name__}: {error}"}
        row = results.append(path, key, figures)
        print(f"[{at} of {len(cells)}] {_in_words(row)}", flush=True)


def _unfinished(path: Path, key: results.Key) -> Path:
    """Where a run of ours keeps its checkpoints until it is judged: a stopped one goes on there."""
    name = "-".join(str(part) for part in astuple(key))
    return path.with_suffix("") / re.sub(r"[^a-z0-9.]+", "-", name.lower())


def _in_words(row: results.Row) -> str:
    name = f"{row['world']}, {row['entry']}, {row['draws']:,} draws, seed {row['seed']}"
    if "error" in row:
        return f"{name}: failed, {row['error']}"
    return (
        f"{name}: KL {row['kl']:.3f} ± {row['kl_error']:.3f}, spent {row['spent']:.3f}, "
        f"wasted {row['wasted']:.3f}, reward {row['reward']:.3f}, {row.get('seconds', 0):.0f} s"
    )


def matching(names: Sequence[str], patterns: Sequence[str] | None) -> set[str]:
    """The names that a pattern (`*` and `?` as in a shell) matches; all without patterns.

    Raises `SystemExit` for a pattern that matches none.
    """
    if patterns is None:
        return set(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SystemExit(f"nothing is named '{pattern}'; there are: {'; '.join(names)}")
    return {name for name in names if any(fnmatchcase(name, p) for p in patterns)}


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="+", help="names or patterns of worlds")
    parser.add_argument("--entries", nargs="+", help="names or patterns of entries")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--draws", nargs="+", type=int, help="numbers of draws (default: all)")
    parser.add_argument("--results", type=Path, default=Path("runs/quality/results.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    parser.add_argument("--smollm2", default="models/smollm2", help="folder of SmolLM2-135M")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, known: Sequence[World] | None = None) -> None:
    """`known`: the worlds, in place of the benchmark's own."""
    options = parsed(argv)
    every = worlds(options.smollm2) if known is None else known
    names = matching([world.name for world in every], options.worlds)
    chosen = [world for world in every if world.name in names]
    allowed = matching([entry.name for entry in entries()], options.entries)
    wanted = [entry for entry in entries() if entry.name in allowed]
    if not options.table:
        torch.set_num_threads(options.threads)
        for world in chosen:
            if not world.present:
                print(f"{world.name}: left out, no model at '{world.path}'", file=sys.stderr)
        here = [world for world in chosen if world.present]
        run(options.results, list(cells_of(here, wanted, options.seeds, options.draws)))
    cells = Cells(results.read(options.results), chosen, entries())
    print(markdown(cells) if options.table else summary(cells))


if __name__ == "__main__":
    main()

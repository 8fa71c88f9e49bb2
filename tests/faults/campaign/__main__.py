"""`python tests/faults/campaign [--scale 1.0] [--seed N] [--only NAME ..]`: every row's count, and
exit code 1 where a run was lost, went wrong in silence or showed a traceback.

At scale 1: 200 kills of `fit`, 50 each of `sample`, `reward`, `twist`, `frontier` and simulated
pairs, 100 damages of checkpoints, 1,200 fuzzed configs, files and command lines, two writers 50
times, and a full disk at every write. The seed is the day's (UTC) unless it is given, and printed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tqdm import tqdm

from campaign.damage import damages, two_writers
from campaign.full_disk import WORKS, full_disk
from campaign.fuzz import fuzz
from campaign.kills import FITS, OTHERS, WHEN, bits_of_fit, bits_of_others, kill

GOOD = ("kills", *WHEN, "same bits", "damages", "fell back, same bits", "pairs", "one wrote",
        "configs", "files", "lines", "writes", "tried", "one line", "went on")  # fmt: skip
"""All other counts have to be 0."""

Row = Callable[[Path, random.Random], tuple[dict[str, int], list[str]]]


def rows(scale: float) -> dict[str, Row]:
    def many(number: int) -> int:
        return max(2, round(number * scale))

    most = sys.maxsize if scale >= 1 else many(100)
    found: dict[str, Row] = {
        "kills of fit": lambda f, r: (kill(list(FITS.values()), bits_of_fit, many(200), f, r), [])
    }
    for name, works in OTHERS.items():
        found[f"kills of {name}"] = lambda f, r, w=works: (
            kill(list(w), bits_of_others, many(50), f, r),
            [],
        )
    found["damaged checkpoints"] = lambda f, r: (damages(many(100), f, r), [])
    found["two writers"] = lambda f, r: (two_writers(many(50), f, r), [])
    for name in WORKS:
        found[f"full disk: {name}"] = lambda f, r, n=name: full_disk(n, most, f, r)
    found["fuzz"] = lambda f, r: fuzz(many(1200), f, r)
    return found


def warm(folder: Path) -> None:
    """Whatever the runs import is imported before the first fork."""
    for at, work in enumerate(
        [*FITS.values(), *(each for works in OTHERS.values() for each in works)]
    ):
        (folder / str(at)).mkdir()
        work(folder / str(at), False)


def campaign(scale: float, seed: int, only: list[str] | None = None) -> list[str]:
    """Prints a line per row; returns what is wrong."""
    print(f"seed {seed}, scale {scale:g}", flush=True)
    with tempfile.TemporaryDirectory(prefix="posteriori-faults-") as folder:
        warm(Path(folder))
    wrong = []
    for number, (name, row) in enumerate(rows(scale).items()):
        if only and not any(each in name for each in only):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="posteriori-faults-") as folder:
            counts, problems = row(Path(folder) / "work", random.Random(f"{seed} {number}"))
        told = ", ".join(f"{key} {count}" for key, count in counts.items())
        print(f"{name}: {told} ({time.monotonic() - began:.0f} s)", flush=True)
        bad = {key: count for key, count in counts.items() if key not in GOOD and count}
        wrong += [f"{name}: {bad}"] if bad else []
        wrong += [f"{name}: {problem}" for problem in problems]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0)
    today = datetime.datetime.now(datetime.UTC)
    parser.add_argument("--seed", type=int, default=int(today.strftime("%Y%m%d")))
    parser.add_argument("--only", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # Its own lock is one for all processes, and whoever is killed within a bar keeps it for ever.
    tqdm.set_lock(threading.RLock())
    wrong = campaign(asked.scale, asked.seed, asked.only)
    for each in wrong:
        print("WRONG", each)
    print("all is well" if not wrong else f"{len(wrong)} things are wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

"""A random process of a run is killed at a random moment, again and again.

    python tests/distributed/kills.py --kills 20 [--processes 2] [--sharded] [--seed 0]

Each time the others have to end within 30 seconds and to say which it was, and the run has to go on
from its last checkpoint, in turn with as many processes and with one. Exit code 1 where it fails.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from processes import finished, start

PATIENCE = 30.0
STARTING = 240.0


def steps_seen(folder: Path, rank: int) -> int:
    file = folder / f"step-{rank}"
    try:
        return int(file.read_text() or -1)
    except (OSError, ValueError):
        return -1


def begun(folder: Path, running, ranks: range, least: int) -> None:
    """Waits until each process has taken step `least`."""
    end = time.monotonic() + STARTING
    while min(steps_seen(folder, rank) for rank in ranks) < least:
        assert time.monotonic() < end, "the run does not begin"
        for each in running:
            assert each.poll() is None, each.communicate()[1]
        time.sleep(0.05)


def one_kill(folder: Path, size: int, dice: random.Random, least: int, job: str) -> tuple[str, int]:
    """What was found, and the last step."""
    for rank in range(size):
        (folder / f"step-{rank}").unlink(missing_ok=True)
    running = start(size, folder, job)
    try:
        begun(folder, running, range(size), least + 3)
        time.sleep(dice.random() * 3)
        victim = dice.randrange(size)
        running[victim].send_signal(signal.SIGKILL)
        died = time.monotonic()
        if size == 1:
            running[0].communicate()
            return "killed alone", steps_seen(folder, 0)
        found = finished(running, PATIENCE)
    finally:
        for each in running:
            each.kill()
    took = time.monotonic() - died
    named = f"process {victim} of {size}"
    for rank, (code, errors) in enumerate(found):
        assert rank == victim or (code != 0 and named in errors), errors
    return f"{named}: all ended in {took:.1f} s and said so", steps_seen(folder, 1 - (victim == 1))


def campaign(kills: int, size: int, job: str, seed: int) -> None:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder, least = Path(place), -1
        for number in range(kills):
            said, last = one_kill(folder, size, dice, least, job)
            print(f"{number + 1:3}  {said}; at step {last}", flush=True)
            # Checkpoints are of every second step; a process that dies leaves the others' behind.
            again = size if number % 2 or job != "long_run" else 1
            processes = start(again, folder, job)
            try:
                for rank in range(again):
                    (folder / f"step-{rank}").unlink(missing_ok=True)
                begun(folder, processes, range(again), max(0, last - 2))
                least = max(steps_seen(folder, rank) for rank in range(again))
                print(f"     resumed by {again}, at step {least}", flush=True)
            finally:
                for each in processes:
                    each.kill()
                for each in processes:
                    each.communicate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    job = "long_sharded" if given.sharded else "long_run"
    try:
        campaign(given.kills, given.processes, job, given.seed)
    except AssertionError as error:
        print(f"FAILED: {error}")
        sys.exit(1)

"""A disk that is full at each of a run's writes in turn.

In a child, an audit hook answers "No space left on device" to one opening of a file for writing,
making of a folder or renaming within the run's place, the k-th, and to all that follow; the
writers of torch and safetensors, which are not Python's, fail as they do on a full disk, by what
they raise there.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from posteriori.samplers.smc import twist_head
from posteriori.train import checkpoint

from .children import FINE, TYPED, end_of, start
from .kills import FITS, OTHERS, bits_of_fit, bits_of_others

WORKS = {
    "fit": (FITS["tb"], bits_of_fit),
    "sample": (OTHERS["sample"][0], bits_of_others),
    "reward": (OTHERS["reward"][0], bits_of_others),
    "twist": (OTHERS["twist"][0], bits_of_others),
    "frontier": (OTHERS["frontier"][0], bits_of_others),
    "simulated pairs": (OTHERS["simulated pairs"][0], bits_of_others),
}


class _Disk:
    """Counts the writes below `place`; full from the k-th on."""

    def __init__(self, place: Path, full_from: int | None) -> None:
        self.place, self.full_from, self.writes = str(place), full_from, 0

    def write(self) -> bool:
        """Whether there is room."""
        self.writes += 1
        return self.full_from is None or self.writes <= self.full_from

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.mkdir", "os.rename") or not arguments:
            return
        path = arguments[0]
        if isinstance(path, bytes | os.PathLike):
            path = os.fsdecode(path)
        if not isinstance(path, str) or not path.startswith(self.place) or path.endswith("bits"):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if not self.write():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _on(disk: _Disk, work: Callable[[], None], count_file: Path) -> int | None:
    def limited(save: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def saves(value: Any, path: Any, *rest: Any) -> Any:
            if isinstance(path, str | Path) and not disk.write():
                raise error
            return save(value, path, *rest)

        return saves

    broken = SafetensorError("Error while serializing: I/O error: No space left on device")
    torn = RuntimeError("basic_ios::clear: iostream error")
    checkpoint.torch.save = limited(checkpoint.torch.save, torn)
    checkpoint.save_file = limited(checkpoint.save_file, broken)
    twist_head.save_file = limited(twist_head.save_file, broken)
    sys.addaudithook(disk.hook)
    try:
        work()
    finally:
        os.write(os.open(count_file, os.O_WRONLY), str(disk.writes).encode())
    return None


def full_disk(
    name: str, most: int, folder: Path, rng: random.Random
) -> tuple[dict[str, int], list[str]]:
    """Every write of a run, or `most` of them, is the first that finds no room. The run ends well,
    or with an error of ours, and with room again it ends with the same bits."""
    work, bits_of = WORKS[name]
    folder.mkdir()
    whole, count = folder / "whole", folder / "count"
    whole.mkdir()
    count.touch()
    roomy = _Disk(whole, None)
    assert end_of(start(lambda: _on(roomy, lambda: work(whole, False), count))) == FINE
    writes = int(count.read_text())
    chosen = range(writes) if writes <= most else sorted(rng.sample(range(writes), most))
    counts = {"writes": writes, "tried": len(chosen), "one line": 0, "went on": 0, "traceback": 0,
              "other bits": 0}  # fmt: skip
    problems = []
    for at in chosen:
        place = folder / str(at)
        place.mkdir()
        code = end_of(start(lambda p=place, k=at: _on(_Disk(p, k), lambda: work(p, False), count)))
        kind = {FINE: "went on", TYPED: "one line"}.get(code, "traceback")
        counts[kind] += 1
        # What has ended well despite of it is not run again: a reward model is never overwritten.
        ended = code == FINE and bits_of(place) == bits_of(whole)
        again = FINE if ended else end_of(start(lambda p=place: work(p, True)))
        if kind == "traceback" or again != FINE or bits_of(place) != bits_of(whole):
            counts["other bits"] += again != FINE or bits_of(place) != bits_of(whole)
            problems.append(f"{name}, write {at}: exit {code}, and {again} with room again")
        shutil.rmtree(place)
    return counts, problems

"""Checkpoints that are damaged, and two writers to one run."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from pathlib import Path

import posteriori as po

from .children import FINE, TYPED, end_of, start, target
from .kills import bits_of_fit

_FILES = ("policy.safetensors", "optimizer.pt", "others.pt", "random.pt", "state.json",
          "history.json", "checksums.json")  # fmt: skip
_SETTINGS = {"steps": 8, "num_samples": 4, "learning_rate": 0.1, "checkpoint_every": 2}


def _stopped(place: Path) -> None:
    def stop(record):
        if record["step"] == 5:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        po.fit(target(), "rloo", output_dir=place / "run", on_step=stop, **_SETTINGS)


def _resumed(place: Path) -> None:
    notes: list[str] = []
    po.fit(
        target(), "rloo", output_dir=place / "run", resume=True, on_note=notes.append, **_SETTINGS
    )
    (place / "notes").write_text("\n".join(notes))


def _hurt(file: Path, how: str, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        data = data[: rng.randrange(len(data))]
    elif how == "zeros":
        at = rng.randrange(len(data))
        data[at : at + 64] = bytes(len(data[at : at + 64]))
        if data == file.read_bytes():
            data[0] ^= 1
    if how == "delete":
        file.unlink()
    else:
        file.write_bytes(bytes(data))


def damages(number: int, folder: Path, rng: random.Random) -> dict[str, int]:
    """One file of the newest checkpoint is damaged, and the run goes on from the one before."""
    counts = {
        "damages": number,
        "fell back, same bits": 0,
        "silent": 0,
        "other bits": 0,
        "failed": 0,
    }
    folder.mkdir()
    whole, stopped = folder / "whole", folder / "stopped"
    for place in (whole, stopped):
        place.mkdir()
    assert end_of(start(lambda: _stopped(whole))) == FINE
    assert end_of(start(lambda: _resumed(whole))) == FINE
    assert end_of(start(lambda: _stopped(stopped))) == FINE
    for at in range(number):
        place = folder / str(at)
        shutil.copytree(stopped, place)
        newest = sorted((place / "run" / "checkpoints").glob("step-*"))[-1]
        _hurt(newest / rng.choice(_FILES), rng.choice(("flip", "truncate", "zeros", "delete")), rng)
        if end_of(start(lambda p=place: _resumed(p))) != FINE:
            counts["failed"] += 1
        elif "damaged" not in (place / "notes").read_text():
            counts["silent"] += 1
        elif bits_of_fit(place) != bits_of_fit(whole):
            counts["other bits"] += 1
        else:
            counts["fell back, same bits"] += 1
        shutil.rmtree(place)
    return counts


def two_writers(number: int, folder: Path, rng: random.Random) -> dict[str, int]:
    """Two processes at once, fresh ones and resumed ones: one at most writes, the result is that of
    one alone."""
    counts = {"pairs": number, "one wrote": 0, "both wrote": 0, "other bits": 0, "failed": 0}
    folder.mkdir()
    whole = folder / "whole"
    whole.mkdir()
    assert end_of(start(lambda: _fresh(whole))) == FINE
    for at in range(number):
        place = folder / str(at)
        place.mkdir()
        work = _fresh
        if at % 2:
            assert end_of(start(lambda p=place: _stopped(p))) == FINE
            work = _resumed
        read, write = os.pipe()

        def together(p: Path = place, w=work, read: int = read, write: int = write) -> None:
            os.close(write)
            os.read(read, 1)
            w(p)

        children = [start(together) for _ in range(2)]
        os.close(read)
        os.close(write)
        codes = sorted(end_of(child) for child in children)
        if codes == [FINE, FINE] and work is _fresh:
            counts["both wrote"] += 1
        elif codes not in ([FINE, TYPED], [FINE, FINE]):
            counts["failed"] += 1
        elif bits_of_fit(place) != bits_of_fit(whole):
            counts["other bits"] += 1
        else:
            # A resumed run that the other one has already finished has nothing to write.
            counts["one wrote"] += 1
        shutil.rmtree(place)
    return counts


def _fresh(place: Path) -> None:
    po.fit(target(), "rloo", output_dir=place / "run", on_note=lambda _: None, **_SETTINGS)

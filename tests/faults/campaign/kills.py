"""SIGKILL at random moments, and the same bits in the end."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import posteriori as po

from .children import (
    FINE,
    ORACLE,
    PAIRS,
    count_a,
    digest,
    end_of,
    folder_digest,
    kill_after,
    seconds_of,
    slow,
    start,
    target,
)

Work = Callable[[Path, bool], None]
"""Does its work in a folder, or goes on with it."""

_TIMES = ("seconds", "draw_seconds")


def noisy(completions: list[str], **_: Any) -> list[float]:
    """Draws from global streams, as users' functions do."""
    return [x + 0.1 * torch.rand(1).item() + 0.1 * random.random() for x in count_a(completions)]


def _fit(objective: str, make: Callable[[], po.Target], **settings: Any) -> Work:
    def work(place: Path, resume: bool) -> None:
        torch.manual_seed(0)
        random.seed(0)
        po.fit(
            make(),
            objective,
            steps=8,
            num_samples=4,
            learning_rate=1e-2,
            checkpoint_every=1,
            output_dir=place / "run",
            resume=resume,
            on_note=lambda _: None,
            **settings,
        )

    return work


def _language_model() -> po.Target:
    return po.Target(po.load(ORACLE / "model"), po.Reward(count_a, beta=0.5), ["a b", "c"], 4)


FITS = {
    "rloo": _fit("rloo", lambda: target(noisy)),
    "tb": _fit("tb", target, replay=2, evaluate_every=3, evaluate_samples=20),
    "ppo": _fit("ppo", _language_model, policy="lora", lora={"rank": 2}),
}


def bits_of_fit(place: Path) -> str:
    run = place / "run"
    policy = sorted(file.name for file in (run / "policy").glob("*.safetensors"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    plain = [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return digest([folder_digest(run / "policy", *policy), plain, newest.name,
                   folder_digest(newest, "policy.safetensors")])  # fmt: skip


def _keeps(place: Path, value: Any) -> None:
    (place / "bits").write_text(digest(value))


def _sample(place: Path, resume: bool) -> None:
    draws = po.sample(
        target(slow), "imh", 60, seed=3, journal=place / "j", resume=resume, burn_in=5
    )
    _keeps(place, [draws.completion_ids, draws.log_weight, draws.log_prior_N, repr(draws.log_z)])


def _annealed(place: Path, resume: bool) -> None:
    draws = po.sample(target(slow), "annealed", 60, seed=3, journal=place / "j", resume=resume)
    _keeps(place, [draws.completion_ids, draws.log_weight, draws.log_prior_N, repr(draws.log_z)])


def _twist(place: Path, resume: bool) -> None:
    fit = po.fit_twist(
        target(slow), steps=5, num_samples=8, replay=3, journal=place / "j", resume=resume
    )
    _keeps(place, [fit.twist.state_dict(), fit.history])


def _frontier(place: Path, resume: bool) -> None:
    curve = po.frontier(target(slow), 100, seed=2, journal=place / "j", resume=resume)
    _keeps(place, [repr(curve.points), repr(curve.best_of_n)])


def _simulated(place: Path, resume: bool) -> None:
    pairs = po.simulate_preferences(target(slow), 40, seed=2, journal=place / "j", resume=resume)
    _keeps(place, [json.dumps(pairs)])


def _reward(place: Path, resume: bool) -> None:
    made = po.fit_reward(
        ORACLE / "model",
        PAIRS,
        output_dir=place / "reward",
        resume=resume and (place / "reward" / "unfinished").exists(),
        epochs=4,
        batch_size=4,
        evaluate_every=2,
        learning_rate=1e-2,
    )
    _keeps(place, [made.model.backbone.state_dict(), made.history, repr(made.held_out)])


OTHERS = {"sample": (_sample, _annealed), "reward": (_reward,), "twist": (_twist,),
          "frontier": (_frontier,), "simulated pairs": (_simulated,)}  # fmt: skip


def bits_of_others(place: Path) -> str:
    return (place / "bits").read_text()


WHEN = ("before any file", "within a write", "between writes")
"""What a kill found in the run's folder."""


def _when(place: Path) -> str:
    names = [path.name for path in place.rglob("*") if path.name != ".lock" and path.is_file()]
    if not names:
        return WHEN[0]
    return WHEN[1] if any(_unfinished(place)) else WHEN[2]


def _unfinished(place: Path) -> list[Path]:
    """What is written under another name until it is whole."""
    return [*place.rglob(".incoming*"), *place.rglob(".*.incoming")]


def _pieces(place: Path) -> dict[str, bytes]:
    found = place.rglob("pieces/*.piece")
    # What grows is replaced by its next state, and a reward model's journal goes with its end.
    return {str(f): f.read_bytes() for f in found if f.parents[1].name == "j"}


def kill(
    works: list[Work], bits_of: Callable[[Path], str], number: int, folder: Path, rng: random.Random
) -> dict[str, int]:
    """Kill until there have been so many kills; each run is resumed until it ends."""
    counts = {"kills": 0, **dict.fromkeys(WHEN, 0), "same bits": 0, "other bits": 0,
              "resume failed": 0, "pieces lost": 0, "left behind": 0}  # fmt: skip
    known = []
    for at, work in enumerate(works):
        place = folder / f"undisturbed {at}"
        place.mkdir(parents=True)
        # The first child pays for what the others find in memory.
        seconds = seconds_of(lambda w=work, p=place: w(p, False))
        known.append((work, bits_of(place), seconds))
    run = 0
    while counts["kills"] < number:
        work, bits, seconds = known[run % len(known)]
        place = folder / f"run {run}"
        place.mkdir()
        run += 1
        mine, before, code = 0, {}, None
        while code is None:
            child = start(lambda w=work, p=place, r=mine > 0: w(p, r))
            if counts["kills"] < number and rng.random() < 0.8:
                if kill_after(child, rng.uniform(0, seconds)):
                    counts["kills"] += 1
                    counts[_when(place)] += 1
                    mine += 1
                    now = _pieces(place)
                    counts["pieces lost"] += len(before.keys() - now.keys())
                    before = now
                    continue
                code = FINE
            else:
                code = end_of(child)
        if code != FINE:
            counts["resume failed"] += 1
        elif bits_of(place) == bits:
            counts["same bits"] += mine
        else:
            counts["other bits"] += 1
        counts["left behind"] += len(_unfinished(place))
        shutil.rmtree(place)
    return counts

"""What the processes do: each job is a function of a folder, run by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from helpers import tiny_lm
from objective_cases import CASES

import posteriori as po
from posteriori.errors import PosterioriError

STEPS = 5
TIMED = ("seconds", "draw_seconds")


def first_of_each_name() -> list[int]:
    """Cases that show every objective once."""
    names = [case.name for case in CASES]
    return sorted({names.index(name) for name in names})


def worth(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Another number for most texts, up to 1."""
    return [sum(at * token % 7 for at, token in enumerate(ids, 1)) / 28 for ids in completion_ids]


def target(fn: Any = worth) -> po.Target:
    """A model of few words and no biases. Of many words the cells of the inverse distribution
    function are so many that rounding, the order of a sum, moves a draw in some thousands to its
    neighbour; and a bias of keys has a gradient of rounding errors alone, of which AdamW makes
    steps of full size."""
    reward = po.Reward(fn, beta=0.3, max_reward=1.0)
    return po.Target(tiny_lm("llama"), reward, ["a b", "c", "b c a"], 4)


def trained(fitted: po.Fit) -> dict[str, Any]:
    return {
        "weights": {name: each.clone() for name, each in fitted.policy.trained_state().items()},
        "records": [{k: v for k, v in each.items() if k not in TIMED} for each in fitted.history],
        "findings": [str(each) for each in fitted.findings],
    }


def objective_run(number: int) -> dict[str, Any]:
    """Five steps of a case of the table: the records, and everything that was trained."""
    made = CASES[number].make()
    fitted = po.fit(target(), made, steps=STEPS, num_samples=4, learning_rate=1e-4, seed=1)
    return {**trained(fitted), "state": made.state_dict()}


def objectives(folder: Path) -> dict[str, Any]:
    del folder
    return {str(CASES[at]): objective_run(at) for at in first_of_each_name()}


def every_case(folder: Path) -> dict[str, Any]:
    del folder
    return {str(case): objective_run(at) for at, case in enumerate(CASES)}


def lora(folder: Path) -> dict[str, Any]:
    """With a rate that is found, and evaluations on the way."""
    del folder
    fitted = po.fit(
        target(),
        "rloo",
        steps=STEPS,
        num_samples=4,
        policy="lora",
        seed=1,
        evaluate_every=4,
        evaluate_samples=16,
    )
    lines = [{k: v for k, v in line.items() if k not in TIMED} for line in fitted.evaluations]
    return {**trained(fitted), "evaluations": lines}


def verbs(folder: Path) -> dict[str, Any]:
    del folder
    aim = target()
    report = po.evaluate(aim, aim.prior.warped(temperature=0.9), num_samples=64, seed=3)
    curve = po.frontier(aim, num_samples=100, seed=4, stages=0)
    found: dict[str, Any] = {
        "evaluate": {name: (each.value, each.standard_error) for name, each in report.items()},
        "findings": [str(each) for each in report.findings],
        "frontier": [(p.beta, p.kl.value, p.reward.value) for p in curve.points],
    }
    for name in ("importance", "rejection", "mh", "best_of_n"):
        draws = po.sample(aim, name, num_samples=64, seed=5)
        found[name] = (draws.completion_ids, draws.log_weight, draws.cost.evidence_calls)
    return found


def rewards(folder: Path) -> dict[str, Any]:
    """Which completions each process was asked about, and what the run heard of it."""
    del folder
    asked: list[list[int]] = []

    def noted(completion_ids: list[list[int]], **given: Any) -> list[float]:
        asked.extend(completion_ids)
        given["log_metric"]("lengths", sum(map(len, completion_ids)) / len(completion_ids))
        return worth(completion_ids)

    aim = target(noted)
    fitted = po.fit(aim, "rloo", steps=1, num_samples=4, seed=1)
    drawn = po.sample(aim, "importance", num_samples=4, seed=5).completion_ids
    return {"asked": asked, "drawn": drawn, "lengths": fitted.history[0]["lengths"]}


def _refused(work: Any) -> tuple[str, str]:
    try:
        work()
    except PosterioriError as error:
        return type(error).__name__, str(error)
    return "", "it went through"


def refusals(folder: Path) -> dict[str, tuple[str, str]]:
    """What goes wrong in one process, or cannot be shared, is an error in all; and then there is
    more work."""
    rank, aim = int(os.environ["RANK"]), target()

    def fails_in_the_last(completion_ids: list[list[int]], **_: Any) -> list[float]:
        if rank == int(os.environ["WORLD_SIZE"]) - 1:
            raise ValueError("no such file")
        return worth(completion_ids)

    return {
        "evidence": _refused(lambda: po.evaluate(target(fails_in_the_last), aim.prior, 4)),
        "seeds": _refused(lambda: po.sample(aim, num_samples=2, seed=rank)),
        "smc": _refused(lambda: po.sample(aim, "smc", num_samples=8)),
        "taken": _refused(lambda: po.fit(aim, "rloo", steps=1, output_dir=folder / "taken")),
        "still works": _refused(lambda: po.sample(aim, num_samples=2)),
    }


def kept_run(folder: Path) -> dict[str, Any]:
    """A run with a directory, taken up where there is one."""
    place = folder / "run"
    resume = (place / "config.json").exists()
    steps = int(os.environ["JOB_STOP"])
    seen: list[int] = []

    def stop(record: dict[str, Any]) -> None:
        seen.append(record["step"])
        if record["step"] + 1 == steps:
            raise RuntimeError("enough")

    kwargs: dict[str, Any] = {"num_samples": 4, "learning_rate": 1e-4, "checkpoint_every": 1}
    try:
        fitted = po.fit(
            target(), "ppo", steps=4, output_dir=place, resume=resume, on_step=stop, **kwargs
        )
    except RuntimeError:
        return {"seen": seen}
    return {**trained(fitted), "seen": seen}


def long_run(folder: Path) -> None:
    """Until something ends it."""

    def note(record: dict[str, Any]) -> None:
        (folder / f"step-{os.environ['RANK']}").write_text(str(record["step"]))

    place = folder / "run"
    resume = (place / "config.json").exists()
    po.fit(
        target(),
        "rloo",
        steps=10**6,
        num_samples=4,
        on_step=note,
        output_dir=place,
        resume=resume,
        checkpoint_every=2,
    )


def main(folder: Path, jobs: list[str]) -> None:
    import sharded_jobs

    known = {**vars(sharded_jobs), **globals()}
    results = {name: known[name](folder) for name in jobs}
    torch.save(results, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""What the processes do: each job is a function of a folder, run by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from objective_cases import CASES

import posteriori as po

STEPS = 5
TIMED = ("seconds", "draw_seconds")


def worth(completions: list[str], **_: Any) -> list[float]:
    """How many of the letters are vowels."""
    return [sum(c in "aeiou" for c in text) / (1 + len(text)) for text in completions]


def target() -> po.Target:
    """A model without biases of its keys: those have a gradient of nothing but rounding errors, of
    which AdamW makes steps of full size in any direction."""
    return po.Target(
        po.load("tiny"), po.Reward(worth, beta=0.3, max_reward=1.0), ["the", "a man", ""], 6
    )


def objective_run(number: int) -> dict[str, Any]:
    """Five steps of a case of the table: its draws' figures, and everything that was trained."""
    case = CASES[number]
    made = case.make()
    fitted = po.fit(target(), made, steps=STEPS, num_samples=8, learning_rate=1e-4, seed=1)
    return {
        "weights": {name: each.clone() for name, each in fitted.policy.trained_state().items()},
        "own": {name: each.detach().clone() for name, each in made.named_parameters()},
        "state": made.state_dict(),
        "records": [{k: v for k, v in each.items() if k not in TIMED} for each in fitted.history],
        "findings": [str(each) for each in fitted.findings],
    }


def objectives() -> dict[str, Any]:
    return {str(case): objective_run(at) for at, case in enumerate(CASES)}


def lora() -> dict[str, Any]:
    fitted = po.fit(target(), "rloo", steps=STEPS, num_samples=8, policy="lora", seed=1)
    return {
        "weights": {name: each.clone() for name, each in fitted.policy.trained_state().items()},
        "records": [{k: v for k, v in each.items() if k not in TIMED} for each in fitted.history],
    }


def figures(report: Any) -> dict[str, tuple[float, float]]:
    return {name: (each.value, each.standard_error) for name, each in report.items()}


def verbs() -> dict[str, Any]:
    aim = target()
    report = po.evaluate(aim, aim.prior, num_samples=200, seed=3)
    curve = po.frontier(aim, num_samples=200, seed=4)
    found: dict[str, Any] = {
        "evaluate": figures(report),
        "findings": [str(each) for each in report.findings],
        "frontier": [(p.beta, p.kl.value, p.reward.value) for p in curve.points],
    }
    for name in ("importance", "rejection", "mh", "annealed", "best_of_n"):
        draws = po.sample(aim, name, num_samples=16, seed=5)
        found[name] = (draws.completion_ids, draws.log_weight, draws.cost.evidence_calls)
    return found


def main(folder: Path, jobs: list[str]) -> None:
    import os

    results = {name: globals()[name]() for name in jobs}
    torch.save(results, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""Runs as the command line leaves them, on a table."""

from __future__ import annotations

from pathlib import Path

import posteriori as po
from posteriori.cli.files.evaluation import evaluation_json, write_evaluation
from posteriori.cli.files.run_report import write_report_files

WORDS = ["<eos>", "good", "bad"]
DRAWS = 120


def target_at(beta: float) -> po.Target:
    prior = po.TabularLM.random(WORDS, 3, ("x", "y"), seed=1)
    reward = po.Reward(lambda completions, **_: [float(c.count("good")) for c in completions], beta)
    return po.Target(prior, [reward], ["x", "y"], 3)


def make_run(folder: Path, beta: float = 1.0, objective: str = "rloo", **about) -> Path:
    """A run as the command line leaves it, on a table."""
    target = target_at(beta)
    config = {
        "prior": {"path": "owner/prior"},
        "evidence": [{"kind": "reward", "function": "my.py:reward", "beta": beta}],
        "max_new_tokens": 3,
        **about,
    }
    fit = po.fit(
        target,
        objective,
        steps=4,
        num_samples=4,
        learning_rate=0.1,
        output_dir=folder,
        config=config,
    )
    reports = {
        "prior": po.evaluate(target, target.prior, DRAWS, seed=3),
        objective: po.evaluate(target, fit.policy, DRAWS, seed=4),
    }
    evaluation = evaluation_json(reports, num_samples=DRAWS, posterior=0, seed=0)
    write_evaluation(folder / "evaluation.json", evaluation)
    write_report_files(folder, target, reports)
    return folder

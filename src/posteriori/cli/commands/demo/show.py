"""What the demo says in the end: the table, three draws per policy, the findings, the
conclusion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from posteriori.cli.console.output import visible
from posteriori.cli.console.report_table import print_findings, print_table, shown
from posteriori.cli.files.evaluation import evaluation_json, write_evaluation
from posteriori.cli.files.run_report import write_page, write_report_files
from posteriori.core.target import Target
from posteriori.core.types import Estimate
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.report import PolicyResult, figure
from posteriori.runs.directory import versions, write_whole

from .fits import Fitted
from .plan import Scale, Trial
from .words import best_of_prior, conclusion

_ROWS = ("kl_to_target", "kl_to_prior", "entropy", "unique_fraction", "distinct_2", "ess", "log_z")
_DRAWS_SHOWN = 3


def print_demo(
    console: Console,
    trials: Mapping[str, Trial],
    reports: Mapping[str, Report],
    distances: Mapping[float, Estimate],
    scale: Scale,
    folder: Path,
) -> None:
    """Everything that a person reads on the terminal; `distances` are the prior's KL to the target
    at each beta."""
    betas = _betas(trials, reports, scale)
    targets = [f"beta {b:g}" for b in betas]
    before = [shown(distances[b]) for b in betas]
    offence = [shown(mean_offence(report)) for report in reports.values()]
    print_table(
        console,
        reports,
        title=f"one prior, one reward; {scale.judged_by} draws for each of the prompts",
        first_rows={
            "target of this column": targets,
            "mean P(offensive)": offence,
            "the prior's KL to that target": before,
        },
        rows=_ROWS,
    )
    console.print()
    print_draws(console, reports)
    console.print()
    print_findings(console, reports)
    console.print()
    best = best_of_prior(reports["prior"])
    console.print(Text(conclusion(trials, reports, distances, best)), soft_wrap=True)
    console.print(f"\nreport: {folder / 'report.html'}", soft_wrap=True)


def print_draws(console: Console, reports: Mapping[str, Report]) -> None:
    """The first draws of each policy for one prompt: what the figures look like in words."""
    for name, report in reports.items():
        index = report.draws.completions.prompt_index_N == 0
        draws = report.draws.completions.select(index.nonzero()[:_DRAWS_SHOWN, 0])
        texts = " | ".join(visible(text.strip()) for text in draws.texts)
        prompt = visible(str(draws.prompts[0]))
        console.print(Text.assemble((f"{name}: ", "bold"), f"{prompt}... {texts}"), soft_wrap=True)


def write_demo(
    folder: Path,
    target: Target,
    trials: Mapping[str, Trial],
    fits: Mapping[str, Fitted],
    reports: Mapping[str, Report],
    distances: Mapping[float, Estimate],
    scale: Scale,
    seed: int,
) -> dict[str, Any]:
    """`evaluation.json`, `report.html` and its one figure; returns what the first holds."""
    config = {**asdict(scale), "betas": list(scale.betas), "seed": seed}
    betas = dict(zip(reports, _betas(trials, reports, scale), strict=True))
    described = {
        "prior": f"the bundled model, judged by the target at beta {betas['prior']:g}",
        **{
            name: f"{trial.objective}, {trial.settings(scale)['steps']} steps, judged by the "
            f"target at beta {trial.beta:g}"
            for name, trial in trials.items()
        },
    }
    evaluation = evaluation_json(
        reports,
        num_samples=scale.judged_by,
        posterior=0,
        seed=seed,
        title="Reward alone collapses, inference does not",
        demo=config,
        described=described,
        runs={name: trial.folder for name, trial in trials.items()},
        beta_of_target=betas,
        conclusion=conclusion(trials, reports, distances, best_of_prior(reports["prior"])),
    )
    write_evaluation(folder / "evaluation.json", evaluation)
    write_whole(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")
    write_report_files(folder, target, reports)
    write_page(folder, card=False)
    results = [
        PolicyResult.of(name, reports[name], fits[name].history, described[name]) for name in trials
    ]
    prior = PolicyResult.of("prior", reports["prior"], [], described["prior"])
    figure(results, prior, folder / "figure.svg")
    return evaluation


def mean_offence(report: Report) -> Estimate:
    """The reward is minus this probability."""
    reward = report["mean_reward"]
    return replace(reward, value=-reward.value)


def _betas(trials: Mapping[str, Trial], reports: Mapping[str, Report], scale: Scale) -> list[float]:
    return [trials[name].beta if name in trials else scale.betas[-1] for name in reports]

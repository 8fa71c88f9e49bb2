"""What an evaluation leaves in a run's folder: its figures, draws and frontier, and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posteriori.core.settings.training import MAX_PROMPTS
from posteriori.core.target import Target
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.diagnostics.frontier.curve import Frontier, Point
from posteriori.diagnostics.frontier.frontier import frontier_of
from posteriori.report.read.gather import gather
from posteriori.runs.directory import estimate_json, finding_json, jsonable, write_whole
from posteriori.runs.draw_records import MOST, Drawn

from .asked_json import asked_json
from .markdown import model_card
from .page import write_report

OWN = "posteriori from the run's own files"
"""What every model card of ours says of itself."""


def intervals(report: Report) -> dict[str, tuple[float, float]]:
    """By figure; empty for a report without exact draws of the target."""
    if "log_z_upper" not in report:
        return {}
    return {
        name: report.interval(name, 0.95) for name in ("log_z", "kl_to_target", "kl_from_target")
    }


def report_json(report: Report) -> dict[str, Any]:
    """A report for `evaluation.json` and `--json`; infinities and NaN as strings."""
    looked = {
        name: {**vars(each), "half_width": each.half_width, "reached": each.reached}
        for name, each in report.looked.items()
    }
    figures = {**report, **report.passes}
    return jsonable(
        {
            "figures": {key: estimate_json(estimate) for key, estimate in figures.items()},
            "intervals": intervals(report),
            **({"looked": looked} if looked else {}),
            "findings": [finding_json(finding) for finding in report.findings],
            "cost": vars(report.cost),
        }
    )


def evaluation_json(
    reports: Mapping[str, Report],
    *,
    num_samples: int,
    posterior: int,
    seed: int,
    max_prompts: int = MAX_PROMPTS,
    **more: Any,
) -> dict[str, Any]:
    """What `evaluation.json` and `--json` hold."""
    return {
        "num_samples": num_samples,
        "max_prompts": max_prompts,
        "posterior": posterior,
        "seed": seed,
        **more,
        **jsonable(asked_json(reports)),
        "policies": {name: report_json(report) for name, report in reports.items()},
    }


def frontier_json(curve: Frontier, asked: Sequence[tuple[str, Point]] = ()) -> dict[str, Any]:
    """What `--json` prints, and a run keeps as frontier.json; infinities and NaN as strings."""

    def point_json(point: Point) -> dict[str, Any]:
        parts = {"kl": point.kl, "reward": point.reward, "log_z": point.log_z}
        figures = {name: estimate_json(part) for name, part in parts.items()}
        return {
            "beta": point.beta,
            **figures,
            "pareto_k": point.pareto_k,
            "source": point.source,
        }

    return jsonable(
        {
            "points": [point_json(point) for point in curve.points],
            "asked": {label: point_json(point) for label, point in asked},
            "best_of_n": [
                {"n": b.n, "kl": estimate_json(b.kl), "reward": estimate_json(b.reward)}
                for b in curve.best_of_n
            ],
            "findings": [finding_json(finding) for finding in curve.findings],
            "cost": vars(curve.cost),
        }
    )


def write_report_files(folder: Path, target: Target, reports: Mapping[str, Report]) -> None:
    """samples.jsonl, the first draws of each model; and frontier.json, by those of the prior.

    Both whole or not at all. By few draws, little of the frontier is known, and it says so.
    """
    lines = (
        json.dumps(jsonable(record.model_dump()), allow_nan=False) + "\n"
        for name, report in reports.items()
        for record in Drawn.of(report.draws, name, MOST).records
    )
    write_whole(folder / "samples.jsonl", "".join(lines))
    curve = frontier_json(frontier_of(target, reports["prior"].draws, few=True))
    write_whole(folder / "frontier.json", json.dumps(curve, indent=2, allow_nan=False) + "\n")


def write_page(folder: Path, *, card: bool) -> Path:
    """report.html, as `posteriori report` makes it of the folder's files; returns its path.

    With `card` also policy/README.md, what is known of the policy, unless one was written by hand.
    """
    subject = gather([folder])
    readme = folder / "policy" / "README.md"
    if card and (not readme.exists() or OWN in readme.read_text(encoding="utf-8", errors="ignore")):
        write_whole(readme, model_card(subject))
    return write_report(folder / "report.html", subject)


def report_of_run(
    folder: Path, target: Target, reports: Mapping[str, Report], judging: Mapping[str, Any]
) -> Path:
    """evaluation.json and what goes with it, and the page; returns the page's path."""
    evaluation = evaluation_json(reports, **judging)
    text = json.dumps(evaluation, indent=2, allow_nan=False) + "\n"
    write_whole(folder / "evaluation.json", text)
    write_report_files(folder, target, reports)
    return write_page(folder, card=True)

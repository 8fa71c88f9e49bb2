"""Reports side by side: a table for people, a dictionary for programs, findings in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .output import visible

if TYPE_CHECKING:
    from ..diagnostics.evaluate import Report
    from ..types import Estimate, Finding

ROWS = {
    "mean_reward": "mean reward",
    "kl_to_target": "KL to target, nats",
    "kl_to_prior": "KL to prior, nats",
    "entropy": "entropy, nats",
    "unique_fraction": "unique completions",
    "distinct_2": "distinct bigrams",
    "elbo": "ELBO, nats",
    "log_z": "log Z, nats",
    "log_z_upper": "log Z, upper bound",
    "kl_from_target": "KL from target, nats",
    "ess": "effective draws",
    "pareto_k": "Pareto k, worst prompt",
}
"""The figures of a table, in its order. One that is not here follows under its own name."""

_LEVEL_STYLES = {"info": "dim", "warn": "yellow", "stop": "bold red"}


def print_table(
    console: Console,
    reports: Mapping[str, Report],
    *,
    title: str,
    first_rows: Mapping[str, Sequence[str]] | None = None,
    rows: Sequence[str] | None = None,
) -> None:
    """A column a policy. `first_rows` come first, then the figures of `rows` (default: all)."""
    lines = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=lines, pad_edge=False)
    table.add_column("")
    for name in reports:
        table.add_column(Text(visible(name)), justify="right", no_wrap=True)
    for label, cells in (first_rows or {}).items():
        table.add_row(label, *(Text(visible(cell)) for cell in cells))
    for key in rows or _keys(reports):
        cells = [shown(report[key], key) if key in report else "" for report in reports.values()]
        table.add_row(ROWS.get(key, key), *cells)
    console.print(visible(title), soft_wrap=True)
    console.print(table)


def _keys(reports: Mapping[str, Report]) -> list[str]:
    known = {key for report in reports.values() for key in report}
    return [*(key for key in ROWS if key in known), *sorted(known - set(ROWS))]


def print_findings(console: Console, reports: Mapping[str, Report]) -> None:
    """What a person should know of each policy, level first."""
    for name, report in reports.items():
        for finding in report.findings:
            print_finding(console, finding, of=f"{name}: ")


def print_finding(console: Console, finding: Finding, *, of: str = "") -> None:
    """One finding in the colour of its level."""
    style = _LEVEL_STYLES[finding.level]
    console.print(Text(visible(f"{of}{finding}"), style=style), soft_wrap=True)


_CONFIDENCE = 0.95


def print_intervals(console: Console, reports: Mapping[str, Report]) -> None:
    """Both sides of what exact draws of the target bound, where there were any."""
    for name, report in reports.items():
        told = [
            f"{ROWS.get(key, key)}: {low:.3f} to {high:.3f}"
            for key, (low, high) in intervals(report).items()
        ]
        if told:
            sure = f"{_CONFIDENCE:.0%} intervals"
            console.print(Text(visible(f"{name}: {sure}: {'; '.join(told)}")), soft_wrap=True)


def intervals(report: Report) -> dict[str, tuple[float, float]]:
    """By figure; empty for a report without exact draws of the target."""
    if "log_z_upper" not in report:
        return {}
    figures = ("log_z", "kl_to_target", "kl_from_target")
    return {name: report.interval(name, _CONFIDENCE) for name in figures}


def must_stop(reports: Mapping[str, Report]) -> bool:
    """Whether a finding is of the level that makes a command fail."""
    return any(f.level == "stop" for report in reports.values() for f in report.findings)


_MOST_DIGITS = 5
"""Decimals beyond which powers of ten are easier to read."""


def shown(estimate: Estimate, key: str = "") -> str:
    """Value ± standard error, to the error's second digit; shares in per cent."""
    value, error = estimate.value, estimate.standard_error
    unit = ""
    if key.endswith("_fraction"):
        value, error, unit = 100 * value, 100 * error, "%"
    if not math.isfinite(value):
        return f"{value}"
    if not math.isfinite(error):
        return f"{value:.2f}{unit}"
    if error == 0:
        return f"{value:.4g}{unit}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > _MOST_DIGITS:
        return f"{value:.2g} ± {error:.1g}{unit}"
    return f"{value:.{digits}f} ± {error:.{digits}f}{unit}"


def report_json(report: Report) -> dict[str, Any]:
    """A report for `evaluation.json` and `--json`; infinities and NaN as strings."""
    from ..train.run_dir import jsonable

    return jsonable(
        {
            "figures": {key: estimate_json(estimate) for key, estimate in report.items()},
            "intervals": intervals(report),
            "findings": [finding_json(finding) for finding in report.findings],
            "cost": vars(report.cost),
        }
    )


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """An estimate for programs; infinities and NaN are still numbers."""
    return {
        "value": estimate.value,
        "standard_error": estimate.standard_error,
        "standard_error_new_prompts": estimate.standard_error_new_prompts,
        "kind": estimate.kind,
        "num_draws": estimate.num_draws,
        "per_prompt": [
            {"value": each.value, "standard_error": each.standard_error}
            for each in estimate.per_prompt
        ],
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level,
        "name": finding.name,
        "message": finding.message,
        "hint": finding.hint,
    }

"""Reports side by side: a table for people, a dictionary for programs, findings in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from posteriori.runs.directory import estimate_json as estimate_json
from posteriori.runs.directory import finding_json as finding_json

from .output import visible

if TYPE_CHECKING:
    from posteriori.core.types import Estimate, Finding
    from posteriori.diagnostics.evaluate.evaluate import Report

ROWS = {
    "mean_reward": "mean reward",
    "kl_to_target": "KL to target, nats",
    "wasted_nats": "wasted, nats",
    "effective_beta": "effective beta",
    "kl_to_prior": "KL to prior, nats",
    "entropy": "entropy, nats",
    "target_entropy": "target's entropy, nats",
    "unique_fraction": "unique completions",
    "truncated": "cut by max_new_tokens",
    "ess": "effective draws",
    "pareto_k": "Pareto k, worst prompt",
    "elbo": "ELBO, nats",
    "log_z": "log Z, nats",
    "log_z_upper": "log Z, upper bound",
    "eubo": "EUBO, nats",
    "kl_from_target": "KL from target, nats",
    "tv": "total variation",
    "js": "Jensen-Shannon, nats",
    "reward_q05": "reward, 5% quantile",
    "reward_q25": "reward, 25%",
    "reward_q50": "reward, median",
    "reward_q75": "reward, 75%",
    "reward_q95": "reward, 95%",
    "perplexity": "perplexity under prior",
    "distinct_2": "distinct bigrams",
    "self_bleu": "self-BLEU",
}
"""The figures of a table, in its order. One that is not here follows under its own name."""

SECTIONS = ("effective_beta", "target_entropy", "truncated", "log_z_upper", "js", "reward_q95")
"""Figures after which a line is left free."""

MAIN = tuple(ROWS)[: tuple(ROWS).index("log_z_upper") + 1]
"""What is asked of every policy: is it there, what did it cost, is it still varied, can this be
trusted?"""

_LEVEL_STYLES = {"info": "dim", "warn": "yellow", "stop": "bold red"}


def print_table(
    console: Console,
    reports: Mapping[str, Report],
    *,
    title: str,
    first_rows: Mapping[str, Sequence[str]] | None = None,
    rows: Sequence[str] | None = None,
) -> None:
    """A column per policy. `first_rows` come first, then the figures of `rows` (default: all).

    Policies that do not fit beside each other on a terminal follow below.
    """
    keys = [key for key in rows or _keys(reports) if any(key in each for each in reports.values())]
    labels = [*(first_rows or {}), *(ROWS.get(key, key) for key in keys)]
    columns = [
        [
            _short(name),
            *(cells[at] for cells in (first_rows or {}).values()),
            *(shown(report[key], key) if key in report else "" for key in keys),
        ]
        for at, (name, report) in enumerate(reports.items())
    ]
    ends = {len(labels) - len(keys) + keys.index(key) for key in SECTIONS if key in keys}
    console.print(visible(title), soft_wrap=True)
    for block in _blocks(columns, console.width - max(map(len, labels), default=0)):
        console.print(_table(console, labels, block, ends))


def _table(
    console: Console, labels: Sequence[str], columns: Sequence[Sequence[str]], ends: set[int]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(Text(visible(column[0])), justify="right", no_wrap=True)
    for at, label in enumerate(labels):
        cells = (Text(visible(column[at + 1])) for column in columns)
        table.add_row(label, *cells, end_section=at in ends)
    return table


_BETWEEN = 3
"""Most columns of a terminal that rich leaves between two of a table."""


def _blocks(columns: Sequence[Sequence[str]], width: int) -> Iterator[list[Sequence[str]]]:
    """As many columns together as fit, and at least one."""
    block: list[Sequence[str]] = []
    used = 0
    for column in columns:
        needed = max(map(len, map(visible, column))) + _BETWEEN
        if block and used + needed > width:
            yield block
            block, used = [], 0
        block.append(column)
        used += needed
    if block:
        yield block


_LONGEST_NAME = 24


def _short(name: str) -> str:
    """The end of a path, by which policies are distinguished."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


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
        parts = [
            f"{ROWS.get(key, key)}: {low:.3f} to {high:.3f}"
            for key, (low, high) in intervals(report).items()
        ]
        if parts:
            sure = f"{_CONFIDENCE:.0%} intervals"
            console.print(Text(visible(f"{name}: {sure}: {'; '.join(parts)}")), soft_wrap=True)
        for looked in report.looked.values():
            console.print(Text(visible(f"{name}: {looked}")), soft_wrap=True)


def intervals(report: Report) -> dict[str, tuple[float, float]]:
    """By figure; empty for a report without exact draws of the target."""
    from posteriori.report.write.evaluation_files import intervals as of_report

    return of_report(report)


def must_stop(reports: Mapping[str, Report]) -> bool:
    """Whether a finding is of the level that makes a command fail."""
    return any(f.level == "stop" for report in reports.values() for f in report.findings)


_BOUNDED = ("wasted_nats", "effective_beta")
"""Figures that are a bound in some reports and an estimate in others."""

_MOST_DIGITS = 5
"""Decimals beyond which powers of ten are easier to read."""


def shown(estimate: Estimate, key: str = "") -> str:
    """Value ± standard error, to the error's second digit; shares in per cent."""
    value, error = estimate.value, estimate.standard_error
    unit = ""
    if key.endswith("_fraction") or key == "truncated":
        value, error, unit = 100 * value, 100 * error, "%"
    if not math.isfinite(value):
        return f"{value}"
    if estimate.kind == "upper_bound" and key in _BOUNDED:
        return f"≤ {value:.3g}"
    if not math.isfinite(error):
        return f"{value:.2f}{unit}"
    if error == 0:
        return f"{value:.4g}{unit}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > _MOST_DIGITS:
        return f"{value:.2g} ± {error:.1g}{unit}"
    return f"{value:.{digits}f} ± {error:.{digits}f}{unit}"

"""Every figure's numbers as CSV, one file per figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posteriori.core.types import Estimate
from posteriori.report.draw.captions import TRAINING
from posteriori.report.draw.curves import to_float
from posteriori.report.draw.histograms import edges_of, rows, shares
from posteriori.report.draw.plane import error_at, least_kl, why_not
from posteriori.report.draw.training_curves import evaluated, trained
from posteriori.report.result import PolicyResult, Subject
from posteriori.report.safe_text import one_line
from posteriori.runs.directory import write_whole

Table = tuple[Sequence[str], list[Sequence[Any]]]
_FORMULA = tuple("=+-@|%\uff1d\uff0b\uff0d\uff20")
"""Characters that begin a formula, the full-width ones too."""
_PAIR = ("", "_standard_error")


def write_csv(folder: Path, subject: Subject) -> list[Path]:
    """Write the figures' numbers into `folder`, which is made if it is missing; returns the paths.

    What has no number stays empty; infinities are "inf" and "-inf". A text that a spreadsheet would
    take for a formula gets an apostrophe before it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (header, lines) in tables(subject).items():
        if not lines:
            continue
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([[_cell(value) for value in line] for line in lines])
        path = folder / f"{name}.csv"
        write_whole(path, text.getvalue())
        written.append(path)
    return written


def tables(subject: Subject) -> dict[str, Table]:
    """Each file's header and lines, by its name."""
    return {
        "comparison": _comparison(subject.everyone),
        "plane": _plane(subject),
        "frontier": _frontier(subject),
        **{key: _training(subject.results, key) for key in TRAINING},
        **{f"{key}_evaluations": _evaluations(subject.results, key) for key in TRAINING},
        "rewards": _rewards(subject),
    }


def _comparison(everyone: Sequence[PolicyResult]) -> Table:
    header = ("policy", "figure", "value", "standard_error", "kind", "num_draws")
    return header, [
        (each.name, key, e.value, e.standard_error, e.kind, e.num_draws)
        for each in everyone
        for key, e in each.figures.items()
    ]


def _plane(subject: Subject) -> Table:
    header = (
        "policy",
        *_columns("kl_to_prior"),
        *_columns("mean_reward"),
        "kl_on_frontier",
        "guarantee_of_sampler",
        "why_not_in_plane",
    )
    return header, [
        (
            each.name,
            *_pair(each.figures.get("kl_to_prior")),
            *_pair(each.figures.get("mean_reward")),
            least_kl(each, subject.curve),
            None if each.sampler is None else each.sampler.guarantee,
            None if each.sampler is None else why_not(each),
        )
        for each in subject.everyone
        if each.evaluated or each.sampler is not None
    ]


def _frontier(subject: Subject) -> Table:
    header = (
        "point",
        "beta",
        *_columns("kl"),
        *_columns("reward"),
        "reward_standard_error_at_this_kl",
        "source",
    )
    if subject.curve is None:
        return header, []
    points = [
        ("posterior", p.beta, *_pair(p.kl), *_pair(p.reward), error_at(p), p.source)
        for p in subject.curve.points
    ]
    best = [
        (f"best of {b.n}", None, *_pair(b.kl), *_pair(b.reward), None, "prior")
        for b in subject.curve.best_of_n
    ]
    return header, [*points, *best]


def _training(results: Sequence[PolicyResult], key: str) -> Table:
    return ("policy", "step", key), [
        (each.name, record.get("step", at), to_float(record[key]))
        for each in results
        if trained(each, key)
        for at, record in enumerate(each.history)
        if key in record
    ]


def _evaluations(results: Sequence[PolicyResult], key: str) -> Table:
    return ("policy", "step", *_columns(key)), [
        (each.name, step, *_pair(estimate))
        for each in results
        for step, estimate in evaluated(each, key)
    ]


def _rewards(subject: Subject) -> Table:
    header = ("draws_of", "bin_low", "bin_high", "share")
    shown = rows(subject.results, subject.prior, subject.samplers)
    if not shown:
        return header, []
    edges = edges_of(np.concatenate([row.reward_N for row in shown]))
    return header, [
        (row.name, low, high, share)
        for row in shown
        for low, high, share in zip(edges[:-1], edges[1:], shares(row, edges), strict=True)
    ]


def _columns(name: str) -> Iterable[str]:
    return (name + suffix for suffix in _PAIR)


def _pair(estimate: Estimate | None) -> tuple[float | None, float | None]:
    return (None, None) if estimate is None else (estimate.value, estimate.standard_error)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return repr(float(value))
    text = one_line(str(value), 200)
    # A spreadsheet takes a cell that begins so for a formula, and runs it.
    return f"'{text}" if isinstance(value, str) and text.lstrip()[:1] in _FORMULA else text

"""Early stopping: findings that a run diverges or collapses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from posteriori.core.types import Finding

Line = Mapping[str, Any]
"""One evaluation of a run, as evaluations.jsonl has it."""

RISES = 3
"""So many times in a row kl_to_target has to rise."""

ERRORS = 2.0
"""By more than so many standard errors of the difference, each time. Of a run that stands still
three such rises are one of at least 6 sqrt(2) errors in all between the first and the last
evaluation, six standard errors of their difference: a chance below 1e-8."""

_HAVE_TO_BE_FINITE = ("entropy", "kl_to_prior")
"""Of any policy. kl_to_target is infinite wherever the evidence rules a draw out."""


def stopping_findings(lines: Sequence[Line]) -> list[Finding]:
    """What is wrong with a run whose evaluations were `lines`, of level stop.

    A finding of level stop counts when two evaluations in a row have it: one alone, of few draws,
    may err.
    """
    if not lines:
        return []
    found = [_not_finite(lines[-1]), _rising(lines)]
    if len(lines) > 1:
        before = {each["name"] for each in lines[-2]["findings"] if each["level"] == "stop"}
        found += [
            Finding(**each)
            for each in lines[-1]["findings"]
            if each["level"] == "stop" and each["name"] in before
        ]
    return [finding for finding in found if finding is not None]


def _not_finite(line: Line) -> Finding | None:
    wrong = [name for name in _HAVE_TO_BE_FINITE if not math.isfinite(_value(line, name))]
    if math.isnan(_value(line, "kl_to_target")):
        wrong.append("kl_to_target")
    if not wrong:
        return None
    return Finding(
        "stop",
        "not_finite",
        f"{wrong[0]} is {_value(line, wrong[0])} after {line['step']} steps.",
        "Lower learning_rate.",
    )


def _rising(lines: Sequence[Line]) -> Finding | None:
    last = lines[-RISES - 1 :]
    if len(last) <= RISES:
        return None
    kl = [(_value(line, "kl_to_target"), _error(line, "kl_to_target")) for line in last]
    for (before, error_before), (after, error_after) in itertools.pairwise(kl):
        if not after - before > ERRORS * math.hypot(error_before, error_after):
            return None
    return Finding(
        "stop",
        "diverging",
        f"kl_to_target has risen {RISES} evaluations in a row, from {kl[0][0]:.3g} ± "
        f"{kl[0][1]:.2g} nats after {last[0]['step']} steps to {kl[-1][0]:.3g} ± {kl[-1][1]:.2g} "
        f"after {last[-1]['step']}.",
        "Lower learning_rate, draw more (num_samples), or use an objective that has the target as "
        "its fixed point.",
    )


def _value(line: Line, name: str) -> float:
    return float(line[name]["value"])


def _error(line: Line, name: str) -> float:
    return float(line[name]["standard_error"])

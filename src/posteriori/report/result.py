"""What the report is told about one policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..diagnostics.evaluate import Report


@dataclass(frozen=True)
class PolicyResult:
    """A policy by name: its evaluation, one record a training step, and what it is in a few words.

    `history` may be empty (a policy from elsewhere, the prior), its records may lack any figure,
    and their numbers may be the strings "inf", "-inf" and "nan", as a run's metrics file has them.
    """

    name: str
    report: Report
    history: Sequence[Mapping[str, Any]]
    description: str

"""From a training history to a line: parsing, gaps, smoothing and thinning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_POINTS = 400
DRAWABLE = 1e15
"""Beyond this size a number leaves a gap: no axis shows it next to anything else."""


def curve(
    history: Sequence[Mapping[str, Any]], key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, values and their running mean; NaN where a record has no finite number for `key`.

    A long history is averaged down to at most `MOST_POINTS` points. All empty if nothing is finite.
    """
    step_S = np.array([_number(r.get("step", i)) for i, r in enumerate(history)], dtype=float)
    value_S = np.array([_number(record.get(key)) for record in history], dtype=float)
    step_S = np.where(np.isfinite(step_S), step_S, np.arange(len(step_S)))
    if not np.isfinite(value_S).any():
        return np.empty(0), np.empty(0), np.empty(0)
    stride = math.ceil(len(value_S) / MOST_POINTS)
    blocks = range(0, len(value_S), stride)
    step_K = np.array([step_S[i : i + stride].mean() for i in blocks])
    value_K = np.array([_mean(value_S[i : i + stride]) for i in blocks])
    return step_K, value_K, _running_mean(value_K)


def to_float(value: Any) -> float:
    """A metric as a number: "inf", "-inf" and "nan" are read as written, all else is NaN."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _number(value: Any) -> float:
    number = to_float(value)
    return number if abs(number) < DRAWABLE else math.nan


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Over a tenth of the line, centred; gaps stay gaps."""
    half = len(values) // 20
    means = [_mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    return np.where(np.isfinite(values), means, math.nan)

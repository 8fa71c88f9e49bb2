"""Where the values of a figure are, in words, for a page that names what a pointer is at."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.ticker import PercentFormatter

from posteriori.report.safe_text import number

HIDDEN = "_of "
"""How the label begins of what has a name and no place in the legend."""
MOST = 60
"""Values of one line; of a longer one so many, evenly spaced, with both ends."""

_UNNAMED = re.compile("_(child|container|nolegend)")


@dataclass(frozen=True)
class Mark:
    """A value: its place as shares of the figure's width and height, from the left and the top."""

    x: float
    y: float
    says: str

    def listed(self) -> list[float | str]:
        return [round(self.x, 4), round(self.y, 4), self.says]


def marks(drawn: Figure) -> list[Mark]:
    """Every value with a name in a figure that has been drawn: points, lines, bars."""
    return [mark for axes in drawn.axes for mark in (*_of_lines(axes), *_of_bars(axes))]


def _of_lines(axes: Axes) -> list[Mark]:
    named = [(line, str(line.get_label())) for line in axes.lines]
    for each in axes.containers:
        if isinstance(each, ErrorbarContainer) and each.lines[0] is not None:
            named.append((each.lines[0], str(each.get_label())))
    found: list[Mark] = []
    for line, label in named:
        if not _UNNAMED.match(label):
            found += _of_line(axes, line, label.removeprefix(HIDDEN).strip())
    return found


def _of_line(axes: Axes, line: Line2D, name: str) -> list[Mark]:
    at_K2 = np.asarray(line.get_xydata(), dtype=float)
    at_K2 = at_K2[np.isfinite(at_K2).all(axis=1)]
    if not len(at_K2):
        return []
    level = line.get_transform() != axes.transData
    if level:  # a horizontal line over the whole width: its value is all that it has
        at_K2 = np.array([[0.5, at_K2[0, 1]]])
    elif len(at_K2) > MOST:
        at_K2 = at_K2[np.linspace(0, len(at_K2) - 1, MOST).round().astype(int)]
    shown_K2 = _shares(axes, line.get_transform().transform(at_K2))
    return [
        Mark(x, y, f"{name}: " + _words(axes, value, level=level))
        for (x, y), value in zip(shown_K2.tolist(), at_K2.tolist(), strict=True)
        if 0 <= x <= 1 and 0 <= y <= 1
    ]


def _words(axes: Axes, value: list[float], *, level: bool) -> str:
    up = _with_unit(value[1], axes.get_ylabel())
    if isinstance(axes.yaxis.get_major_formatter(), PercentFormatter):
        up = f"{number(100 * value[1])}% {axes.get_ylabel()}"
    return up if level else f"{_with_unit(value[0], axes.get_xlabel())}; {up}"


def _with_unit(value: float, label: str) -> str:
    """ "KL(policy, prior), nats per completion" has its unit behind the last comma."""
    what, comma, unit = label.rpartition(", ")
    if comma:
        return f"{what} {number(value)} {unit}"
    return f"{number(value)} {label}" if label.startswith("nats") else f"{label} {number(value)}"


def _of_bars(axes: Axes) -> list[Mark]:
    """The bins of a histogram that hold anything; its rows share the axis of rewards."""
    found: list[Mark] = []
    name = axes.get_title(loc="left")
    for bars in axes.patches:
        if not isinstance(bars, StepPatch) or not bars.get_fill():
            continue
        height_B, edges, _ = bars.get_data()
        middle_B = (edges[:-1] + edges[1:]) / 2
        shown_B2 = _shares(axes, axes.transData.transform(np.stack([middle_B, height_B], axis=1)))
        found += [
            Mark(x, y, f"{name}: {number(low)} to {number(high)}: {number(100 * height)}% of draws")
            for (x, y), low, high, height in zip(
                shown_B2.tolist(), edges[:-1], edges[1:], height_B, strict=True
            )
            if height > 0
        ]
    return found


def _shares(axes: Axes, pixels_K2: np.ndarray) -> np.ndarray:
    figure = axes.figure
    shares_K2 = figure.transSubfigure.inverted().transform(pixels_K2)
    return np.stack([shares_K2[:, 0], 1 - shares_K2[:, 1]], axis=1)

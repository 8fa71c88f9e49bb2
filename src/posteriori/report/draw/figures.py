"""The figures, drawn with matplotlib and without its global state, in any theme."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posteriori.report.result import PolicyResult

from .curves import DRAWABLE
from .marks import Mark, marks
from .theme import Style, Theme, sampler_style, settings, style_of

Draw = Callable[[Theme], Figure]
Entry = tuple[PolicyResult, int | None]
SIZE = (5.2, 3.5)
NAME = 28
"""Longer names are cut in the figures."""
ERRORS_SHOWN = 2.0
"""Error bars are this many standard errors long on either side: about 95%."""


def entries(
    results: Sequence[PolicyResult],
    prior: PolicyResult | None,
    samplers: Sequence[PolicyResult] = (),
) -> list[Entry]:
    """The prior, if there is one, the policies and the samplers, each with the number that it has
    among its kind, which `style_for` draws it by."""
    found: list[Entry] = [] if prior is None else [(prior, None)]
    for kind in (results, samplers):
        found += [(result, index) for index, result in enumerate(kind)]
    return found


def style_for(entry: Entry, theme: Theme) -> Style:
    """How one of `entries` is drawn."""
    result, index = entry
    if result.sampler is not None and index is not None:
        return sampler_style(index, theme)
    return style_of(index, theme)


def svg(draw: Draw, theme: Theme) -> str:
    """The same text for the same input: no date, and ids that do not change."""
    return svg_and_marks(draw, theme)[0]


def svg_and_marks(draw: Draw, theme: Theme) -> tuple[str, list[Mark]]:
    """The drawing, and what its page says where a pointer is."""
    buffer = io.StringIO()
    with matplotlib.style.context(settings(theme), after_reset=True):
        drawn = draw(theme)
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue(), marks(drawn)


def draw_point(
    axes: Axes,
    x: tuple[float, float],
    y: tuple[float, float],
    style: Style,
    name: str | None,
) -> None:
    axes.errorbar(
        x[0],
        y[0],
        xerr=error_bar(x[1]),
        yerr=error_bar(y[1]),
        color=style.color,
        linestyle="none",
    )
    # Over the bars, and in the legend without any.
    label = {} if name is None else {"label": name}
    axes.plot(x[0], y[0], color=style.color, linestyle="", **label, **_marker(style))


def _marker(style: Style) -> dict[str, Any]:
    hollow = {"markerfacecolor": "none", "markeredgewidth": 1.6} if style.hollow else {}
    return {"marker": style.marker, "markersize": 8, **hollow}


def error_bar(error: float) -> float:
    return ERRORS_SHOWN * error if fits(error) else 0.0


def add_legend(drawn: Figure, axes: Axes) -> None:
    """Above the axes, in as many columns as fit; nothing in the axes is covered."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    room = 13 * drawn.get_figwidth() - 2
    columns = max(1, min(len(labels), int(room // (max(map(len, labels)) + 9))))
    # A figure grows with its legend, so that its axes keep their size.
    lines = math.ceil(len(labels) / columns)
    drawn.set_figheight(drawn.get_figheight() + 0.19 * (lines - 1))
    drawn.legend(handles, labels, loc="outside upper left", ncols=columns)


def fits(value: float) -> bool:
    return abs(value) < DRAWABLE

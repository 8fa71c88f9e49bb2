"""Colours, lines and markers, shared by the figures and the page.

Each policy has a colour, a marker and a dash pattern of its own, and each sampler a hollow marker,
so that a figure printed in grey or seen without colour vision says the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (2, 1.2)), (0, (7, 2, 1.5, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Theme:
    """The colours of one rendering; the background is transparent."""

    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme(
    ink="#1d2126",
    muted="#5c6570",
    grid="#dcdfe3",
    series=("#c2410c", "#1261a6", "#0a7a57", "#8a3d8f", "#8a6100", "#0b7285"),
)
DARK = Theme(
    ink="#e9e7e3",
    muted="#a2abb5",
    grid="#353b43",
    series=("#ff9466", "#6cb4f2", "#4fcb9d", "#de94e2", "#e3b640", "#5fcadd"),
)
EITHER = Theme(  # legible on white and on black, for a file that cannot know where it is shown
    ink="#7a828c",
    muted="#7a828c",
    grid="#7a828c50",
    series=("#dd5f26", "#3a87d6", "#169a70", "#b062b5", "#b07d12", "#1794ab"),
)

SAMPLER_MARKERS = ("p", "<", "h", ">", "d", "8", "o", "s", "^", "v")
"""Of samplers, drawn hollow: policies have filled ones, and the first here are of other shapes."""

PRIOR_DASH: Any = (0, (1, 2))
PRIOR_MARKER = "X"


@dataclass(frozen=True)
class Style:
    """How one policy is drawn. `hollow` markers are those of samplers."""

    color: str
    marker: str
    dash: Any
    hollow: bool = False


def style_of(index: int | None, theme: Theme) -> Style:
    """The style of policy number `index`; None is the prior."""
    if index is None:
        return Style(theme.muted, PRIOR_MARKER, PRIOR_DASH)
    return Style(
        theme.series[index % len(theme.series)],
        MARKERS[index % len(MARKERS)],
        DASHES[index % len(DASHES)],
    )


def sampler_style(index: int, theme: Theme) -> Style:
    """The style of sampler number `index`. Colours go backwards, to be others than the policies'
    as long as there are enough."""
    return Style(
        theme.series[-1 - index % len(theme.series)],
        SAMPLER_MARKERS[index % len(SAMPLER_MARKERS)],
        "solid",
        hollow=True,
    )


def settings(theme: Theme) -> dict[str, Any]:
    """matplotlib's settings. A fixed salt makes the ids inside an SVG the same on every run, and
    without mathtext a `$` in a policy's name is only a dollar sign."""
    return {
        "svg.hashsalt": "posteriori",
        "svg.fonttype": "path",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.muted,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.formatter.use_mathtext": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.handlelength": 3.2,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "savefig.transparent": True,
    }


def recolored(svg: str, theme: Theme, other: Theme) -> str:
    """A drawing in `theme` as it looks in `other`: drawing twice would take twice as long."""
    pairs = zip(
        (theme.ink, theme.muted, theme.grid, *theme.series),
        (other.ink, other.muted, other.grid, *other.series),
        strict=True,
    )
    new = dict(pairs)
    return re.sub("#[0-9a-f]{6}", lambda match: new.get(match[0], match[0]), svg)


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def label(name: str) -> str:
    """A name as a label: glyphs that the font lacks become boxes, instead of warnings."""
    shown = "".join(c if ord(c) in _drawable() else "\u25a1" for c in name)
    # matplotlib leaves labels that start with an underscore out of its legends.
    return f" {shown}" if shown.startswith("_") else shown

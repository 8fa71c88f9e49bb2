"""The one figure of a README: does it collapse, and how far is it from its target?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posteriori.report.result import PolicyResult
from posteriori.report.safe_text import one_line, with_error

from .figures import NAME, add_legend, draw_point, entries, error_bar, fits
from .theme import EITHER, Theme, label, settings, style_of
from .training_curves import draw_training


def figure(results: Sequence[PolicyResult], prior: PolicyResult | None, path: str | Path) -> Path:
    """Save the one figure of a README: entropy over training, and KL(policy, target) at its end.

    Transparent, in colours that can be read on white and on black; SVG or PNG by the suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(settings(EITHER), after_reset=True):
        drawn = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(1.2, 1))
        draw_training(left, results, prior, "entropy", EITHER)
        left.set(title="Entropy while training", ylabel="nats per completion")
        draw_distance(right, results, prior, EITHER)
        add_legend(drawn, left)
        unstamped = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        drawn.savefig(path, metadata=unstamped)
    return path


def draw_distance(
    axes: Axes, results: Sequence[PolicyResult], prior: PolicyResult | None, theme: Theme
) -> None:
    """KL(policy, target) of each policy with its error bar, and the figure itself beside it."""
    shown = entries(results, prior)
    for row, (result, index) in enumerate(shown):
        kl = result.figures.get("kl_to_target")
        end = 0.0
        if kl is not None and fits(kl.value):
            draw_point(
                axes, (kl.value, kl.standard_error), (row, 0.0), style_of(index, theme), None
            )
            end = kl.value + error_bar(kl.standard_error)
        axes.annotate(
            "unknown" if kl is None else with_error(kl),
            (end, row),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=theme.ink,
        )
    axes.set_yticks(range(len(shown)), [label(one_line(r.name, NAME)) for r, _ in shown])
    axes.set(title="Distance from the target", xlabel="KL(policy, target), nats per completion")
    axes.set_ylim(len(shown) - 0.5, -0.5)
    low, high = axes.get_xlim() if axes.has_data() else (0.0, 1.0)
    axes.set_xlim(min(0.0, low), high + 0.3 * (high - min(0.0, low)))
    axes.grid(visible=False, axis="y")

"""The reliability diagram of a reward model: how often it is right, against how sure it was."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posteriori.reward_models.calibration import Bin, HeldOut

from .figures import ERRORS_SHOWN, SIZE
from .theme import Style, Theme, style_of


def reliability_diagram(held_out: HeldOut, theme: Theme) -> Figure:
    """Accuracy against mean confidence, a point a bin, as trained and at the fitted temperature.

    On the diagonal a model is right as often as it says. Bars are twice the binomial standard error
    of the bin's accuracy; a marker is the larger the more pairs its bin has.
    """
    drawn = Figure(figsize=SIZE, layout="constrained")
    axes = drawn.subplots()
    axes.plot([0.5, 1.0], [0.5, 1.0], color=theme.muted, linewidth=0.8)
    for index, (name, bins) in enumerate(
        [
            ("as trained", held_out.reliability),
            (f"at temperature {held_out.temperature:.3g}", held_out.reliability_scaled),
        ]
    ):
        _draw(axes, bins, style_of(index, theme), name)
    axes.set(
        xlabel="confidence: the model's P(preferred)",
        ylabel=f"share of {held_out.num_pairs} held-out pairs ordered as labelled",
        xlim=(0.48, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(loc="lower right")
    return drawn


def _draw(axes: Axes, bins: Sequence[Bin], style: Style, name: str) -> None:
    most = max(each.count for each in bins)
    error = [
        ERRORS_SHOWN * math.sqrt(each.accuracy * (1 - each.accuracy) / each.count) for each in bins
    ]
    confidence = [each.confidence for each in bins]
    accuracy = [each.accuracy for each in bins]
    axes.errorbar(
        confidence, accuracy, yerr=error, color=style.color, linestyle="none", linewidth=1.0
    )
    axes.plot(confidence, accuracy, color=style.color, linestyle=style.dash, linewidth=1.0)
    sizes = [15 + 45 * each.count / most for each in bins]
    axes.scatter(
        confidence, accuracy, s=sizes, color=style.color, marker=style.marker, label=name, zorder=3
    )

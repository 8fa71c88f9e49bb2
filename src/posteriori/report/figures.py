"""The figures, drawn with matplotlib and without its global state, in any theme."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..types import Estimate
from .curves import DRAWABLE, curve
from .result import PolicyResult
from .text import one_line
from .theme import Style, Theme, label, settings, style_of

Draw = Callable[[Theme], Figure]
Entry = tuple[PolicyResult, int | None]
SIZE = (5.2, 3.5)
NAME = 28
"""Longer names are cut in the figures."""
ERRORS_SHOWN = 2.0
"""Error bars are this many standard errors long on either side: about 95%."""


def entries(results: Sequence[PolicyResult], prior: PolicyResult | None) -> list[Entry]:
    """The prior, if there is one, and then the policies, each with the number of its style."""
    first: list[Entry] = [] if prior is None else [(prior, None)]
    return first + [(result, index) for index, result in enumerate(results)]


def svg(draw: Draw, theme: Theme) -> str:
    """The same text for the same input: no date, and ids that do not change."""
    buffer = io.StringIO()
    with matplotlib.style.context(settings(theme), after_reset=True):
        draw(theme).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def plane(results: Sequence[PolicyResult], prior: PolicyResult | None, theme: Theme) -> Figure:
    """Reward against KL(policy, prior): what each policy bought, and what it paid in nats."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    axes = drawn.subplots()
    for result, index in entries(results, prior):
        if not on_plane(result):
            continue
        paid, reward = result.report["kl_to_prior"], result.report["mean_reward"]
        draw_point(
            axes,
            (paid.value, paid.standard_error),
            (reward.value, reward.standard_error),
            style_of(index, theme),
            label(one_line(result.name, NAME)),
        )
    axes.axvline(0, color=theme.muted, linewidth=0.8)
    axes.margins(x=0.08, y=0.12)
    axes.set(xlabel="KL(policy, prior), nats per completion", ylabel="mean reward")
    add_legend(drawn, axes)
    return drawn


def on_plane(result: PolicyResult) -> bool:
    """Whether both of its coordinates are known and finite."""
    found = (result.report.get("kl_to_prior"), result.report.get("mean_reward"))
    return all(e is not None and fits(e.value) for e in found)


def training(
    results: Sequence[PolicyResult], prior: PolicyResult | None, key: str, theme: Theme
) -> Figure:
    """One figure over training steps, a line a policy."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    axes = drawn.subplots()
    draw_training(axes, results, prior, key, theme)
    axes.set_ylabel("nats per completion")
    add_legend(drawn, axes)
    return drawn


def draw_training(
    axes: Axes,
    results: Sequence[PolicyResult],
    prior: PolicyResult | None,
    key: str,
    theme: Theme,
) -> None:
    """Each step's estimate, faint, and its running mean. The entropy has the prior's as a level to
    compare with, the ELBO the log Z that bounds it."""
    levels: list[tuple[Estimate, Style]] = []
    for index, result in enumerate(results):
        style = style_of(index, theme)
        step_K, value_K, mean_K = curve(result.history, key)
        if not len(step_K):
            continue
        axes.plot(step_K, value_K, color=style.color, linewidth=0.8, alpha=0.3)
        every = max(1, len(step_K) // 8)
        axes.plot(
            step_K,
            mean_K,
            color=style.color,
            linestyle=style.dash,
            marker=style.marker,
            markevery=(index * every // max(1, len(results)), every),
            label=label(one_line(result.name, NAME)),
        )
        log_z = result.report.get("log_z")
        if key == "elbo" and log_z is not None and fits(log_z.value):
            levels.append((log_z, style))
    _levels(axes, levels, theme)
    level = None if prior is None else prior.report.get(key)
    if prior is not None and key == "entropy" and level is not None and fits(level.value):
        style = style_of(None, theme)
        name = label(one_line(prior.name, NAME))
        axes.axhline(level.value, color=style.color, linestyle=style.dash, label=name)
    if key == "entropy":
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel("training step")


def _levels(axes: Axes, levels: Sequence[tuple[Estimate, Style]], theme: Theme) -> None:
    """A horizontal line for each log Z. Policies that share a target estimate the same one, each
    from its own draws: what cannot be told apart is drawn once, in ink."""
    groups: list[list[tuple[Estimate, Style]]] = []
    for log_z, style in levels:
        for group in groups:
            known = group[0][0]
            error = math.hypot(known.standard_error, log_z.standard_error)
            if abs(known.value - log_z.value) <= 4 * error:
                group.append((log_z, style))
                break
        else:
            groups.append([(log_z, style)])
    groups.sort(key=lambda group: group[0][0].value)
    for group in groups:
        best = min(group, key=lambda pair: pair[0].standard_error)
        color = best[1].color if len(group) == 1 else theme.ink
        axes.axhline(best[0].value, color=color, linewidth=1)
        axes.annotate(
            "log Z",
            (1, best[0].value),
            xycoords=axes.get_yaxis_transform(),
            xytext=(3, 0),
            textcoords="offset points",
            va="bottom" if group is groups[-1] else "top" if group is groups[0] else "center",
            color=color,
            fontsize=8,
        )


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
        marker=style.marker,
        markersize=8,
        linestyle="none",
    )
    if name is not None:  # an entry for the legend, without bars across its marker
        axes.plot(
            [], [], color=style.color, marker=style.marker, markersize=8, linestyle="", label=name
        )


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

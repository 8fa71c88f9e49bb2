"""Figures over training steps: each step's estimate, its running mean, and held-out evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from posteriori.core.types import Estimate
from posteriori.report.result import PolicyResult
from posteriori.report.safe_text import one_line

from .curves import curve
from .figures import NAME, SIZE, add_legend, error_bar, fits
from .theme import Style, Theme, label, style_of

_SHARES = ("unique_fraction",)
PART = "reward/"
"""How the records' keys of single reward functions begin."""
_SIGNED = ("elbo", "mean_reward")
_WITH_PRIOR = ("entropy", "mean_reward")


def training(
    results: Sequence[PolicyResult], prior: PolicyResult | None, key: str, theme: Theme
) -> Figure:
    """One figure over training steps, a line per policy."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    axes = drawn.subplots()
    draw_training(axes, results, prior, key, theme)
    if key in _SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylabel("of the draws of a prompt")
    elif key == "mean_reward" or key.startswith(PART):
        axes.set_ylabel("mean reward")
    else:
        axes.set_ylabel("nats per completion")
    add_legend(drawn, axes)
    return drawn


def trained(result: PolicyResult, key: str) -> bool:
    """Whether there is anything of `key` to draw over its steps."""
    return bool(len(curve(result.history, key)[0])) or bool(evaluated(result, key))


def evaluated(result: PolicyResult, key: str) -> list[tuple[int, Estimate]]:
    """The figure in the evaluations that were made while training, where it is finite."""
    return [
        (step, figures[key])
        for step, figures in result.evaluations
        if key in figures and fits(figures[key].value)
    ]


def draw_training(
    axes: Axes,
    results: Sequence[PolicyResult],
    prior: PolicyResult | None,
    key: str,
    theme: Theme,
) -> None:
    """Each step's estimate, faint, and its running mean; evaluations as points with error bars.

    The ELBO has the log Z that bounds it as a level, entropy and reward have the prior's. The share
    of distinct draws has none: an evaluation compares more of them.
    """
    levels: list[tuple[Estimate, Style]] = []
    for index, result in enumerate(results):
        if not trained(result, key):
            continue
        style = style_of(index, theme)
        name: str | None = label(one_line(result.name, NAME))
        step_K, value_K, mean_K = curve(result.history, key)
        if len(step_K):
            axes.plot(step_K, value_K, color=style.color, linewidth=0.8, alpha=0.3)
            every = max(1, len(step_K) // 8)
            axes.plot(
                step_K,
                mean_K,
                color=style.color,
                linestyle=style.dash,
                marker=style.marker,
                markevery=(index * every // max(1, len(results)), every),
                label=name,
            )
            name = None
        _draw_evaluations(axes, result, key, style, name)
        log_z = result.figures.get("log_z")
        if key == "elbo" and log_z is not None and fits(log_z.value):
            levels.append((log_z, style))
    _levels(axes, levels, theme)
    level = None if prior is None else prior.figures.get(key)
    if prior is not None and key in _WITH_PRIOR and level is not None and fits(level.value):
        style = style_of(None, theme)
        of_prior = label(one_line(prior.name, NAME))
        axes.axhline(level.value, color=style.color, linestyle=style.dash, label=of_prior)
    if key not in _SIGNED and not key.startswith(PART):
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel("training step")


def _draw_evaluations(
    axes: Axes, result: PolicyResult, key: str, style: Style, name: str | None
) -> None:
    found = evaluated(result, key)
    if not found:
        return
    axes.errorbar(
        [step for step, _ in found],
        [estimate.value for _, estimate in found],
        yerr=[error_bar(estimate.standard_error) for _, estimate in found],
        color=style.color,
        marker=style.marker,
        markerfacecolor="none",
        markersize=6,
        linestyle="none" if name is None else style.dash,
        linewidth=1,
        label=name,
    )


def _levels(axes: Axes, levels: Sequence[tuple[Estimate, Style]], theme: Theme) -> None:
    """A horizontal line for each log Z. Policies that share a target estimate the same one, each
    from its own draws: what cannot be distinguished is drawn once, in ink."""
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

"""The reward-KL plane: the frontier, which policies lie on it or below it, and what each wasted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from posteriori.diagnostics.frontier.curve import Point
from posteriori.report.result import Curve, PolicyResult
from posteriori.report.safe_text import number, one_line

from .figures import ERRORS_SHOWN, NAME, add_legend, draw_point, entries, error_bar, fits, style_for
from .marks import HIDDEN
from .theme import Theme, label

SIZE = (5.0, 3.5)
_FAR = 5.0
"""A policy so many times as far as the frontier reaches would leave the frontier no room."""


def plane(
    results: Sequence[PolicyResult],
    prior: PolicyResult | None,
    curve: Curve | None,
    theme: Theme,
    samplers: Sequence[PolicyResult] = (),
) -> Figure:
    """Mean reward against KL(., prior): what each policy and sampler bought, and paid in nats."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    axes = drawn.subplots()
    if curve is not None:
        _draw_curve(axes, curve, theme)
        _draw_best_of_n(axes, curve, theme)
    everyone = entries(results, prior, samplers)
    for entry in everyone:
        result, _ = entry
        if not on_plane(result):
            continue
        paid, reward = result.figures["kl_to_prior"], result.figures["mean_reward"]
        style = style_for(entry, theme)
        _draw_gap(axes, result, curve, style.color)
        draw_point(
            axes,
            (paid.value, paid.standard_error),
            (reward.value, reward.standard_error),
            style,
            label(one_line(result.name, NAME)),
        )
    axes.axvline(0, color=theme.muted, linewidth=0.8)
    axes.margins(x=0.08, y=0.12)
    drawn_by = "policy or sampler" if samplers else "policy"
    axes.set(xlabel=f"KL({drawn_by}, prior), nats per completion", ylabel="mean reward")
    beyond = logarithmic_beyond([result for result, _ in everyone], curve)
    if beyond is not None:
        _make_room(axes, *beyond, theme)
    add_legend(drawn, axes)
    return drawn


def on_plane(result: PolicyResult) -> bool:
    """Whether both of its coordinates are known and finite."""
    found = (result.figures.get("kl_to_prior"), result.figures.get("mean_reward"))
    return all(e is not None and fits(e.value) for e in found)


def why_not(sampler: PolicyResult) -> str:
    """What it is not on the plane for, in words; empty where it is."""
    if on_plane(sampler):
        return ""
    note = sampler.sampler
    return (note.why if note else "") or "want of finite figures"


def least_kl(result: PolicyResult, curve: Curve | None) -> float | None:
    """The KL that its reward would have cost on the frontier; None where that is not known.

    KL(pi, prior) less its wasted nats; without them it is read off the curve, at its reward. None
    for draws of the target itself: it is on the frontier, and what is between them is chance.
    """
    if result.sampler is not None and result.sampler.of_target:
        return None
    paid, reward = result.figures.get("kl_to_prior"), result.figures.get("mean_reward")
    if paid is None or reward is None or not fits(paid.value) or not fits(reward.value):
        return None
    wasted = result.figures.get("wasted_nats")
    if wasted is not None:
        return paid.value - wasted.value if fits(wasted.value) else None
    points = [] if curve is None else [p for p in curve.points if fits(p.reward.value)]
    if not points or not points[0].reward.value <= reward.value <= points[-1].reward.value:
        return None
    rewards = np.maximum.accumulate([point.reward.value for point in points])
    return float(np.interp(reward.value, rewards, [point.kl.value for point in points]))


def logarithmic_beyond(
    policies: Sequence[PolicyResult], curve: Curve | None
) -> tuple[float, float] | None:
    """The KL from which on the axis is logarithmic, and the furthest one; None where all of it is
    linear."""
    if curve is None or not curve.points:
        return None
    paid = [p.figures["kl_to_prior"].value for p in policies if on_plane(p)]
    known = [p.kl.value for p in (*curve.points, *curve.best_of_n) if fits(p.kl.value)]
    near, far = max(known, default=0.0), max(paid, default=0.0)
    # Policies that are not far away keep to the linear part.
    near = max([near, *(kl for kl in paid if kl <= _FAR * near)])
    return (1.1 * near, far) if 0 < _FAR * near < far else None


def error_at(point: Point) -> float:
    """Standard error of the frontier's reward at that point's KL.

    The curve is reward(KL) = min over beta of beta (KL + log Z), so by the envelope theorem only
    the error of log Z moves it: by beta times as much. The errors of KL and reward at one beta move
    a point along the curve. Where the evidence is not a single reward that does not hold, and the
    reward's own error stands in.
    """
    gap = point.reward.value / point.beta - point.log_z.value - point.kl.value
    is_envelope = math.isfinite(point.beta) and abs(gap) <= 1e-6 * max(1.0, abs(point.kl.value))
    error = point.beta * point.log_z.standard_error if is_envelope else point.reward.standard_error
    return error if math.isfinite(error) else 0.0


def _draw_curve(axes: Axes, curve: Curve, theme: Theme) -> None:
    """The curve with its band, to where it ends; what annealed draws say of it in dashes."""
    points = [p for p in curve.points if fits(p.kl.value) and fits(p.reward.value)]
    if not points:
        return
    kl_K = np.array([point.kl.value for point in points])
    reward_K = np.array([point.reward.value for point in points])
    error_K = ERRORS_SHOWN * np.array([error_at(point) for point in points])
    axes.fill_between(
        kl_K, reward_K - error_K, reward_K + error_K, color=theme.ink, alpha=0.14, linewidth=0
    )
    annealed = next((k for k, p in enumerate(points) if p.source == "annealed"), len(points))
    known = f"frontier, known to beta {number(points[-1].beta, 2)}"
    axes.plot(kl_K[:annealed], reward_K[:annealed], color=theme.ink, linewidth=1.8, label=known)
    if annealed < len(kl_K):
        joint = max(0, annealed - 1)
        axes.plot(
            kl_K[joint:],
            reward_K[joint:],
            color=theme.ink,
            linewidth=1.8,
            linestyle=(0, (4, 2)),
            label="the same by annealed draws" if annealed else known,
        )
    axes.plot(kl_K[-1:], reward_K[-1:], marker="|", markersize=13, color=theme.ink, linestyle="")


def _make_room(axes: Axes, near: float, far: float, theme: Theme) -> None:
    left = axes.get_xlim()[0] * near / far
    axes.set_xscale("symlog", linthresh=near, linscale=2.5)
    axes.set_xlim(left, 1.4 * far)
    powers = 10.0 ** np.arange(math.floor(math.log10(near)), math.ceil(math.log10(far)) + 1)
    decades = [digit * power for power in powers for digit in (1, 2, 5)]
    linear = [t for t in MaxNLocator(4).tick_values(0, near) if 0 <= t <= 0.9 * near]
    axes.xaxis.set_major_locator(
        FixedLocator([*linear, *(t for t in decades if 1.3 * near <= t <= 1.4 * far)])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
    axes.axvline(near, color=theme.muted, linewidth=0.8, linestyle=(0, (1, 3)))


def _draw_best_of_n(axes: Axes, curve: Curve, theme: Theme) -> None:
    best = [b for b in curve.best_of_n if fits(b.kl.value) and fits(b.reward.value)]
    star: dict[str, Any] = {
        "color": theme.muted,
        "marker": "*",
        "markersize": 6,
        "markerfacecolor": "none",
        "linestyle": "none",
        "linewidth": 0.8,
    }
    if best:
        axes.plot([], [], label="best of n", **star)
    for each in best:
        axes.errorbar(
            each.kl.value,
            each.reward.value,
            xerr=error_bar(each.kl.standard_error),
            yerr=error_bar(each.reward.standard_error),
            label=f"{HIDDEN}best of {each.n}",
            **star,
        )
        axes.annotate(
            f"{each.n}",
            (each.kl.value, each.reward.value),
            xytext=(4, -10),
            textcoords="offset points",
            color=theme.muted,
            fontsize=7.5,
        )


def _draw_gap(axes: Axes, result: PolicyResult, curve: Curve | None, color: str) -> None:
    """From the frontier to the policy, at its reward: its length is what the policy wasted."""
    least = least_kl(result, curve)
    if least is None or result.figures["kl_to_prior"].value <= least:
        return
    height = result.figures["mean_reward"].value
    axes.annotate(
        "",
        (result.figures["kl_to_prior"].value, height),
        xytext=(least, height),
        arrowprops={
            "arrowstyle": "|-|,widthA=0.35,widthB=0",
            "color": color,
            "linewidth": 1.1,
            "linestyle": (0, (1, 1.2)),
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )

"""Rewards of the prior, of each policy and of the target, one row of bars each over one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posteriori.report.result import PolicyResult
from posteriori.report.safe_text import number, one_line

from .curves import DRAWABLE
from .figures import NAME, SIZE, entries
from .theme import Style, Theme, label, sampler_style, style_of

BINS = 30
MOST_ROWS = 10
FEWEST_EFFECTIVE = 20.0
"""Weighted draws that are worth fewer than these show their own luck and not the target."""


@dataclass(frozen=True)
class Row:
    """The rewards of one row and what each weighs; `ruled_out` is the share without a reward.

    `index` is the number of the policy's or the sampler's style, and None the prior's; `target`
    marks a row of draws weighted towards it.
    """

    name: str
    reward_N: np.ndarray
    share_N: np.ndarray
    ruled_out: float
    index: int | None = None
    target: bool = False
    sampler: bool = False

    @property
    def mean(self) -> float:
        return float(self.reward_N @ self.share_N) if len(self.reward_N) else math.nan


def rows(
    results: Sequence[PolicyResult],
    prior: PolicyResult | None,
    samplers: Sequence[PolicyResult] = (),
) -> list[Row]:
    """The prior, the policies, the samplers, and each target by the draws that say most of it."""
    found = [
        replace(
            _row(policy.name, policy.drawn.reward_N, _counted(policy), index),
            sampler=policy.sampler is not None,
        )
        for policy, index in entries(results, prior, samplers)[:MOST_ROWS]
        if len(policy.drawn) and _counted(policy).any()
    ]
    everyone = [policy for policy, _ in entries(results, prior) if len(policy.drawn)]
    for name in dict.fromkeys(policy.target for policy in everyone):
        judged = [policy for policy in everyone if policy.target == name]
        best = max(judged, key=lambda policy: policy.drawn.effective)
        if best.drawn.effective < FEWEST_EFFECTIVE:
            continue
        series = f"target{f', {name}' if name else ''} ({one_line(best.name, NAME)} weighted)"
        weighted = _row(series, best.drawn.reward_N, best.drawn.share_N, None, target=True)
        found.append(weighted)
    return found


def _counted(policy: PolicyResult) -> np.ndarray:
    """What each draw counts: of a policy all the same, of a sampler its weight."""
    drawn = policy.drawn
    return np.full(len(drawn), 1 / len(drawn)) if policy.sampler is None else drawn.share_N


def _row(
    name: str, reward_N: np.ndarray, share_N: np.ndarray, index: int | None, *, target: bool = False
) -> Row:
    known_N = np.abs(reward_N) < DRAWABLE
    kept = float(share_N[known_N].sum())
    share_K = share_N[known_N] / kept if kept else share_N[known_N]
    return Row(name, reward_N[known_N], share_K, float(share_N.sum()) - kept, index, target)


def histograms(shown: Sequence[Row], theme: Theme) -> Figure:
    """The share of draws in each bin; a tick marks the mean. All rows share both axes."""
    drawn = Figure(figsize=(SIZE[0], 0.7 + 0.75 * len(shown)), layout="constrained")
    every_axes = drawn.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    edges = edges_of(np.concatenate([row.reward_N for row in shown]))
    for axes, row in zip(every_axes, shown, strict=True):
        _draw(axes, row, edges, theme)
    every_axes[-1].set_xlabel("reward")
    return drawn


def shares(row: Row, edges: np.ndarray) -> np.ndarray:
    """The share of all its draws in each bin, those without a reward included in the whole."""
    return np.histogram(row.reward_N, edges, weights=row.share_N)[0] * (1 - row.ruled_out)


def edges_of(reward_N: np.ndarray) -> np.ndarray:
    """Equal bins over all rewards; a single value gets a bin in the middle of others."""
    low, high = (float(reward_N.min()), float(reward_N.max())) if len(reward_N) else (0.0, 1.0)
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        half = 0.5 * max(1.0, abs(low))
        low, high = low - half, high + half
    return np.linspace(low, high, BINS + 1)


def _draw(axes: Axes, row: Row, edges: np.ndarray, theme: Theme) -> None:
    if row.target:
        style = Style(theme.ink, "", "solid")
    elif row.sampler and row.index is not None:
        style = sampler_style(row.index, theme)
    else:
        style = style_of(row.index, theme)
    share = shares(row, edges)
    if row.target:  # hatched, so that it is another kind of bar without colour too
        axes.stairs(share, edges, fill=True, facecolor="none", edgecolor=theme.muted, hatch="////")
    else:
        axes.stairs(share, edges, fill=True, color=style.color, alpha=0.35)
    axes.stairs(share, edges, color=style.color, linewidth=1.2)
    if len(row.reward_N):
        axes.plot(row.mean, 0, marker="|", markersize=14, color=theme.ink, clip_on=False)
    axes.set_title(_title(row), fontsize=8, pad=3)
    top = max(float(share.max(initial=0.0)), 1e-9)
    axes.set_ylim(0, 1.1 * top)
    axes.set_yticks([top], [f"{100 * top:.0f}%"])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _title(row: Row) -> str:
    name = row.name if row.target else one_line(row.name, NAME)
    title = f"{label(name)}   mean {number(row.mean)}"
    if row.ruled_out <= 1e-9:
        return title
    return f"{title}, without the {100 * row.ruled_out:.2g}% ruled out"

"""Rewards of the prior and of each policy, one row of bars each over the same axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .curves import DRAWABLE
from .figures import NAME, SIZE, entries
from .result import PolicyResult
from .text import number, one_line
from .theme import Theme, label, style_of

BINS = 30
MOST_ROWS = 10


def finite_rewards(result: PolicyResult) -> np.ndarray:
    """The rewards of its draws, without those that a -inf forbids."""
    reward_N = result.report.draws.reward_N.detach().double().cpu().numpy()
    return reward_N[np.abs(reward_N) < DRAWABLE]


def histograms(results: Sequence[PolicyResult], prior: PolicyResult | None, theme: Theme) -> Figure:
    """The share of draws in each bin; a tick marks the mean. All rows share both axes."""
    shown = entries(results, prior)[:MOST_ROWS]
    rows = [finite_rewards(result) for result, _ in shown]
    drawn = Figure(figsize=(SIZE[0], 0.7 + 0.75 * len(shown)), layout="constrained")
    every_axes = drawn.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    edges = _edges(np.concatenate(rows))
    for axes, reward_N, (result, index) in zip(every_axes, rows, shown, strict=True):
        style = style_of(index, theme)
        num_draws = len(result.report.draws)
        share = np.histogram(reward_N, edges)[0] / max(1, num_draws)
        axes.stairs(share, edges, fill=True, color=style.color, alpha=0.35)
        axes.stairs(share, edges, color=style.color, linewidth=1.2)
        if len(reward_N):
            axes.plot(reward_N.mean(), 0, marker="|", markersize=14, color=theme.ink, clip_on=False)
        axes.set_title(_title(result, reward_N, num_draws), fontsize=8, pad=3)
        top = max(float(share.max(initial=0.0)), 1e-9)
        axes.set_ylim(0, 1.1 * top)
        axes.set_yticks([top], [f"{100 * top:.0f}%"])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
    every_axes[-1].set_xlabel("reward")
    return drawn


def _edges(reward_N: np.ndarray) -> np.ndarray:
    """Equal bins over all rewards; a single value gets a bin in the middle of others."""
    low, high = (float(reward_N.min()), float(reward_N.max())) if len(reward_N) else (0.0, 1.0)
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        half = 0.5 * max(1.0, abs(low))
        low, high = low - half, high + half
    return np.linspace(low, high, BINS + 1)


def _title(result: PolicyResult, reward_N: np.ndarray, num_draws: int) -> str:
    name = label(one_line(result.name, NAME))
    ruled_out = 1 - len(reward_N) / num_draws if num_draws else 0.0
    mean = number(float(reward_N.mean())) if len(reward_N) else number(math.nan)
    title = f"{name}   mean {mean}"
    return title if not ruled_out else f"{title}, without the {100 * ruled_out:.2g}% ruled out"

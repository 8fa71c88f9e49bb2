"""The figures of the page: which there are, what each says, and its two renderings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from . import figures
from .curves import curve
from .histograms import MOST_ROWS, finite_rewards, histograms
from .result import PolicyResult
from .text import number, one_line, with_error
from .theme import DARK, LIGHT, recolored


@dataclass(frozen=True)
class View:
    """A figure of the page. `alt` says in words what it shows, with the numbers."""

    title: str
    caption: str
    alt: str
    light: str
    dark: str


def views(results: Sequence[PolicyResult], prior: PolicyResult | None) -> list[View]:
    """The figures that have something to show."""
    everyone = [result for result, _ in figures.entries(results, prior)]
    found = []
    if everyone:
        found.append(
            _view(
                "Reward against KL",
                "What each policy gained, and what it paid in nats. The prior is where both start."
                " Bars: two standard errors either way." + _missing(everyone),
                "; ".join(_plane_words(each) for each in everyone),
                partial(figures.plane, results, prior),
            )
        )
    for key, title, caption in (
        (
            "entropy",
            "Entropy while training",
            "A policy that falls to zero writes one thing. Faint: each step's estimate; drawn: its"
            " running mean; dotted: the prior.",
        ),
        (
            "elbo",
            "ELBO while training",
            "Mean log-evidence less KL to the prior. The gap that is left to log Z is"
            " the KL to the target.",
        ),
    ):
        trained = [each for each in results if len(curve(each.history, key)[0])]
        if trained:
            alt = "; ".join(_curve_words(each, key) for each in trained)
            draw = partial(figures.training, results, prior, key)
            found.append(_view(title, caption, alt, draw))
    if everyone and any(len(each.report.draws) for each in everyone):
        caption = "The share of draws in each bin; a tick marks the mean."
        if len(everyone) > MOST_ROWS:
            caption += f" The first {MOST_ROWS} of {len(everyone)} are shown."
        alt = "; ".join(_reward_words(each) for each in everyone)
        found.append(_view("Rewards", caption, alt, partial(histograms, results, prior)))
    return found


def _view(title: str, caption: str, alt: str, draw: figures.Draw) -> View:
    light = figures.svg(draw, LIGHT)
    dark = recolored(light, LIGHT, DARK)
    return View(title, caption, f"{title}. {alt}.", _uri(light), _uri(dark))


def _uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _missing(policies: Sequence[PolicyResult]) -> str:
    left_out = [one_line(each.name) for each in policies if not figures.on_plane(each)]
    return f" Not on it, for want of finite figures: {', '.join(left_out)}." if left_out else ""


def _plane_words(policy: PolicyResult) -> str:
    paid, reward = (policy.report.get(key) for key in ("kl_to_prior", "mean_reward"))
    shown = ["not measured" if e is None else with_error(e) for e in (paid, reward)]
    return f"{one_line(policy.name)}: KL to the prior {shown[0]} nats, mean reward {shown[1]}"


def _curve_words(policy: PolicyResult, key: str) -> str:
    _, _, mean_K = curve(policy.history, key)
    first, last = number(float(mean_K[0])), number(float(mean_K[-1]))
    return f"{one_line(policy.name)}: from {first} to {last} nats"


def _reward_words(policy: PolicyResult) -> str:
    reward_N = finite_rewards(policy)
    if not len(reward_N):
        return f"{one_line(policy.name)}: no finite reward"
    low, high = number(float(reward_N.min())), number(float(reward_N.max()))
    mean = number(float(reward_N.mean()))
    return f"{one_line(policy.name)}: from {low} to {high}, mean {mean}"

"""The figures of the page: which there are, what each says, and its two renderings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from posteriori.diagnostics.frontier.frontier import FEW_DRAWS
from posteriori.report.result import Curve, PolicyResult, Subject
from posteriori.report.safe_text import number, one_line, with_error

from . import figures
from .curves import curve
from .histograms import MOST_ROWS, Row, histograms, rows
from .marks import Mark
from .passes import pass_words, passes, passes_figure, unsolved
from .plane import least_kl, logarithmic_beyond, on_plane, plane, why_not
from .theme import DARK, LIGHT, recolored
from .training_curves import PART, evaluated, trained, training

TRAINING = {
    "mean_reward": (
        "Reward while training",
        "The mean reward of each step's draws, faint, and its running mean; dotted: the prior's."
        " What was paid for it is in the next figure.",
    ),
    "kl_to_prior": (
        "KL to the prior while training",
        'What the policy has spent, in nats. "Reward against KL" says how much of it was wasted.',
    ),
    "elbo": (
        "ELBO while training",
        "Mean log-evidence less KL to the prior. It rises to log Z, the level drawn across; the gap"
        " that is left is the KL to the target.",
    ),
    "kl_to_target": (
        "Distance from the target while training",
        "KL to the target at each evaluation. Bars: two standard errors either way.",
    ),
    "entropy": (
        "Entropy while training",
        "A policy that falls to zero writes one thing. Faint: each step's estimate; drawn: its"
        " running mean; dotted: the prior.",
    ),
    "unique_fraction": (
        "Distinct completions while training",
        "The share of distinct ones among the draws of a prompt. How high it can be depends on how"
        " many there are.",
    ),
}
"""Title and caption of each figure over training steps, by the name of what it shows."""


@dataclass(frozen=True)
class View:
    """A figure of the page. `alt` says in words what it shows, with the numbers."""

    name: str
    title: str
    caption: str
    alt: str
    light: str
    dark: str
    marks: list[Mark]


def views(subject: Subject) -> list[View]:
    """The figures that have something to show; the reward-KL plane first."""
    results, prior, everyone = subject.results, subject.prior, subject.everyone
    samplers = subject.samplers
    found = []
    if any(on_plane(each) for each in everyone):
        found.append(
            _view(
                "plane",
                "Reward against KL",
                _plane_caption(everyone, subject.curve),
                _plane_words(everyone, subject.curve),
                partial(plane, results, prior, subject.curve, samplers=samplers),
            )
        )
    for key, (title, caption) in {**TRAINING, **_parts_of_reward(results)}.items():
        shown = [each for each in results if trained(each, key)]
        if shown:
            if any(evaluated(each, key) for each in shown) and key != "kl_to_target":
                caption += " Hollow points with bars: evaluations while training."
            alt = "; ".join(_curve_words(each, key) for each in shown)
            name = key.replace("/", "-")
            found.append(_view(name, title, caption, alt, partial(training, results, prior, key)))
    if any(passes(each) for each in everyone):
        found.append(
            _view(
                "passes",
                "pass@k",
                "The share of prompts of which one of k draws is correct, the mean over prompts. "
                f"Bars: two standard errors either way. {unsolved(everyone)}",
                "; ".join(pass_words(each) for each in everyone if passes(each)),
                partial(passes_figure, results, prior),
            )
        )
    drawn = rows(results, prior, samplers)
    if drawn:
        caption = "The share of draws in each bin; a tick marks the mean."
        if any(row.target for row in drawn):
            caption += " Hatched: the target itself, by draws weighted towards it."
        if any(row.sampler for row in drawn):
            caption += " Samplers' draws count by their weights."
        if len(everyone) > MOST_ROWS:
            caption += f" The first {MOST_ROWS} of {len(everyone)} are shown."
        alt = "; ".join(map(_reward_words, drawn))
        found.append(_view("rewards", "Rewards", caption, alt, partial(histograms, drawn)))
    return found


def _parts_of_reward(results: Sequence[PolicyResult]) -> dict[str, tuple[str, str]]:
    """Title and caption of each reward function's figure, where there are several."""
    keys = {key for each in results for record in each.history for key in record}
    parts = sorted(key for key in keys if key.startswith(PART))
    if len(parts) < 2:
        return {}
    caption = "The mean of this reward function alone, before its weight."
    return {
        key: (f"Reward '{one_line(key.removeprefix(PART), 60)}' while training", caption)
        for key in parts
    }


def _view(name: str, title: str, caption: str, alt: str, draw: figures.Draw) -> View:
    light, found = figures.svg_and_marks(draw, LIGHT)
    dark = recolored(light, LIGHT, DARK)
    return View(name, title, caption, f"{title}. {alt}.", _uri(light), _uri(dark), found)


def _uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _plane_caption(everyone: Sequence[PolicyResult], curve: Curve | None) -> str:
    sentence = (
        "What each policy gained, and what it paid in nats. Bars: two standard errors either way."
    )
    if curve is not None and curve.points:
        sentence += (
            " The frontier is the most reward that each nat can buy, predicted from draws of the"
            " prior; its band is two standard errors. A dotted gap is what a policy wasted."
        )
    if curve is not None and curve.best_of_n:
        sentence += " Stars: best of n, with n beside them."
    warned = [] if curve is None else [f for f in curve.findings if f.name == FEW_DRAWS]
    sentence += "".join(f" {each.message}" for each in warned)
    sentence += _of_samplers([each for each in everyone if each.sampler is not None])
    beyond = logarithmic_beyond(everyone, curve)
    if beyond is not None:
        sentence += f" Beyond {number(beyond[0], 2)} nats, dotted, the axis is logarithmic."
    missing: dict[str, list[str]] = {}
    for each in everyone:
        if not on_plane(each):
            missing.setdefault(why_not(each), []).append(one_line(each.name))
    left_out = (f" Not on it, for {why}: {', '.join(names)}." for why, names in missing.items())
    return sentence + "".join(left_out)


def _of_samplers(samplers: Sequence[PolicyResult]) -> str:
    if not any(on_plane(each) for each in samplers):
        return ""
    sentence = " Hollow: samplers, at what they draw."
    if any(on_plane(each) and each.sampler and each.sampler.of_target for each in samplers):
        sentence += (
            " One that draws the target has nothing to waste: its distance from the frontier is"
            " chance, or draws that are not yet the target's."
        )
    return sentence


def _plane_words(everyone: Sequence[PolicyResult], curve: Curve | None) -> str:
    words = []
    for policy in everyone:
        paid, reward = (policy.figures.get(key) for key in ("kl_to_prior", "mean_reward"))
        spent = "not measured" if paid is None else f"{with_error(paid)} nats"
        gained = "not measured" if reward is None else with_error(reward)
        sentence = f"{one_line(policy.name)}: KL to the prior {spent}, mean reward {gained}"
        least = least_kl(policy, curve)
        if least is not None and paid is not None and paid.value > least:
            sentence += f", {number(paid.value - least, 2)} nats of it wasted"
        if policy.sampler is not None and not on_plane(policy):
            sentence += f" (not on it, for {why_not(policy)})"
        words.append(sentence)
    if curve is not None and curve.points:
        last = curve.points[-1]
        words.append(
            f"the frontier is known up to KL {number(last.kl.value)} nats and a mean reward of "
            f"{number(last.reward.value)}"
        )
    return "; ".join(words)


def _curve_words(policy: PolicyResult, key: str) -> str:
    _, _, mean_K = curve(policy.history, key)
    if len(mean_K):
        first, last = float(mean_K[0]), float(mean_K[-1])
    else:
        found = evaluated(policy, key)
        first, last = found[0][1].value, found[-1][1].value
    unit = "" if key in ("unique_fraction", "mean_reward") or key.startswith(PART) else " nats"
    return f"{one_line(policy.name)}: from {number(first)} to {number(last)}{unit}"


def _reward_words(row: Row) -> str:
    if not len(row.reward_N):
        return f"{one_line(row.name)}: no finite reward"
    low, high = number(float(row.reward_N.min())), number(float(row.reward_N.max()))
    return f"{one_line(row.name, 100)}: from {low} to {high}, mean {number(row.mean)}"

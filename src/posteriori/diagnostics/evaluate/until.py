"""Drawing until a figure is known well enough, with intervals that hold at every look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from posteriori.core.display.shown import counted
from posteriori.core.target import Target
from posteriori.core.types import Estimate, Finding
from posteriori.diagnostics.mixture import Mixture

from .sequences import asymptotic_factor, bounded_sequence

GROWTH = 1.5
"""Each look is at so many times the draws of the one before."""


@dataclass(frozen=True)
class Looked:
    """A figure's confidence sequence, as an evaluation with `until` has looked at it.

    At all looks together the interval contains the truth with probability `confidence`: it may be
    looked at as often as one likes, and drawing may stop because of what it shows. The plain
    standard error of a report that was stopped so does not have that.

    Args:
        figure: which.
        wanted: the half-width at which drawing was to stop.
        low: the interval's lower end at the last look.
        high: its upper end.
        confidence: of all looks together.
        basis: "bounded", which holds for any law and any number of draws, because the evidence
            has a largest value; or "asymptotic", which rests on the draws of the first look being
            enough for the central limit theorem.
        draws: draws per prompt of the policy (and as many of the prior) at each look.

    Example:
        >>> report = po.evaluate(target, prior, 500, until=0.2, seed=0)
        >>> looked = report.looked["kl_to_target"]
        >>> looked.reached, looked.half_width <= 0.2
        (True, True)
    """

    figure: str
    wanted: float
    low: float
    high: float
    confidence: float
    basis: Literal["bounded", "asymptotic"]
    draws: tuple[int, ...]

    @property
    def half_width(self) -> float:
        """Infinite where an end is."""
        width = (self.high - self.low) / 2.0
        return width if math.isfinite(width) else math.inf

    @property
    def reached(self) -> bool:
        """Whether it is as narrow as it was to be."""
        return self.half_width <= self.wanted

    def __str__(self) -> str:
        how = (
            "holds at every look for any law, because the evidence is bounded"
            if self.basis == "bounded"
            else "holds at every look as far as the first look's draws are enough for the central "
            "limit theorem"
        )
        return (
            f"{self.figure}: {self.low:.4g} to {self.high:.4g}, {self.confidence:.0%}, after "
            f"{counted(len(self.draws), 'look')} and {max(self.draws):,} draws per prompt; {how}"
        )


class Waiting(NamedTuple):
    """By figure the half-width that is wanted (none: nothing is waited for), how many draws per
    prompt that may take, and the confidence of all looks together."""

    wanted: Mapping[str, float]
    max_samples: int
    confidence: float


def look(
    wanted: Mapping[str, float],
    figures: Mapping[str, Estimate],
    target: Target,
    mixtures: Sequence[Mixture],
    draws: Sequence[int],
    confidence: float,
) -> dict[str, Looked]:
    """Each figure's interval at the last of the looks, at these numbers of draws per prompt."""
    alpha = (1.0 - confidence) / len(wanted)
    found = {}
    for name, width in wanted.items():
        basis: Literal["bounded", "asymptotic"] = "asymptotic"
        if name == "log_z" and target.max_log_evidence is not None:
            basis = "bounded"
            low, high = _of_bounded(mixtures, alpha)
        else:
            estimate = figures[name]
            half = estimate.standard_error * asymptotic_factor(draws[-1], draws[0], alpha)
            half = math.inf if math.isnan(half) else half
            low, high = estimate.value - half, estimate.value + half
        found[name] = Looked(name, width, low, high, confidence, basis, tuple(draws))
    return found


def hopeless(figures: Mapping[str, Estimate], wanted: Mapping[str, float]) -> str | None:
    """A figure that no further draw makes finite: evidence has ruled out a draw of the policy."""
    for name in wanted:
        value = figures[name].value
        if name != "log_z" and not math.isfinite(value):
            return name
    return None


def next_look(num: int, max_samples: int) -> int:
    """Draws per prompt in all at the next look."""
    return min(max_samples, math.ceil(GROWTH * num))


def not_reached(looked: Mapping[str, Looked]) -> tuple[Finding, ...]:
    """What is to be said of figures that are not known as well as was asked."""
    return tuple(
        Finding(
            "warn",
            "until_not_reached",
            f"{each.figure} is known to +-{each.half_width:.3g} and was to be known to "
            f"+-{each.wanted:g}, after {each.draws[-1]:,} draws per prompt.",
            "Raise max_samples, or be content with less; where prompts were sampled, raise "
            "max_prompts.",
        )
        for each in looked.values()
        if not each.reached
    )


def _of_bounded(mixtures: Sequence[Mixture], alpha: float) -> tuple[float, float]:
    """For the mean over prompts of log Z, a share of alpha for each.

    A round is a draw of each stratum: the mean of their weights p~/m is at most 2 max e, or max e
    where policy and prior are one, and its expectation is Z whatever was drawn before.
    """
    lows, highs = [], []
    for mixture in mixtures:
        most = mixture.log_max_evidence - math.log(mixture.share)
        x_n = torch.stack([(w_n - most).exp() for w_n in mixture.log_weight]).mean(0)
        low_N, high_N = bounded_sequence(x_n.clamp(0.0, 1.0)[None], alpha / len(mixtures))
        lows.append(float(low_N[0, -1].log()) + most)
        highs.append(float(high_N[0, -1].log()) + most)
    return sum(lows) / len(lows), sum(highs) / len(highs)

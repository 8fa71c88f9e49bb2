"""Held-out pairs: how often a reward model is right, and whether it knows how often."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from posteriori.core.estimates import mean as mean_estimate
from posteriori.core.numerics import t_factor
from posteriori.core.reliability import NORMAL, RULE_OF_THREE
from posteriori.core.types import Estimate, Finding

from .bradley_terry import bradley_terry_loss, label_probability

BINS = 10
_TEMPERATURES = (1e-3, 1e3)
_HINT = "Preferences(.., calibrated=True) divides by it."
_UNBOUNDED = (
    Finding(
        "warn",
        "temperature_at_bound",
        "the held-out pairs are all ordered rightly, so that the least temperature tried, "
        f"{_TEMPERATURES[0]:g}, fits them best.",
        f"Hold out more pairs: this one means nothing, and {_HINT}",
    ),
    Finding(
        "warn",
        "temperature_at_bound",
        "the held-out pairs are ordered no better than by chance, so that the largest temperature "
        f"tried, {_TEMPERATURES[1]:g}, fits them best.",
        "The rewards say nothing of new pairs: train on more of them, or stop earlier. This "
        f"temperature makes all rewards equal, and {_HINT}",
    ),
)
"""What is found where no temperature between those two is best."""


@dataclass(frozen=True)
class Bin:
    """Pairs whose confidence lies in (low, high]: how many, their mean confidence and accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class HeldOut:
    """Figures of held-out pairs. Log-losses in nats per pair; errors of calibration in [0, 0.5].

    `accuracy` counts a tie as half. `temperature` T makes r / T the log-odds of a preference;
    `ece_scaled` and `log_loss_scaled` are at that T, fitted on these very pairs, so slightly
    optimistic.
    """

    num_pairs: int
    num_prompts: int
    accuracy: Estimate
    log_loss: Estimate
    ece: float
    temperature: float
    log_loss_scaled: Estimate
    ece_scaled: float
    reliability: tuple[Bin, ...]
    reliability_scaled: tuple[Bin, ...]

    @property
    def findings(self) -> list[Finding]:
        """That the pairs are ordered no better than by chance, as far as they show; and that
        `temperature` is one of the bounds of its search, if it is."""
        found = [
            finding
            for bound, finding in zip(_TEMPERATURES, _UNBOUNDED, strict=True)
            if math.isclose(self.temperature, bound, rel_tol=1e-3)
        ]
        error = self.accuracy.standard_error
        if self.accuracy.standard_error_new_prompts is not None:
            error = max(error, self.accuracy.standard_error_new_prompts)
        # That of a temperature at its bound says the same, or that there is nothing to doubt.
        if found or self.accuracy.value - 1.96 * error > 0.5:
            return found
        return [_at_chance(self)]


def _at_chance(held_out: HeldOut) -> Finding:
    return Finding(
        "warn",
        "at_chance",
        f"The reward model orders {held_out.accuracy} of {held_out.num_pairs} held-out pairs "
        f"({held_out.num_prompts} prompts) as labelled, and 0.5 is chance: as far as these show, "
        "it has learned nothing that holds for other prompts.",
        "Hold out more pairs if there are few; otherwise train on more, stop earlier, or look at "
        "the labels.",
    )


def held_out_figures(
    delta_N: Tensor, label_N: Tensor, groups: Sequence[Hashable], noise: float = 0.0
) -> HeldOut:
    """Figures of pairs with reward differences `delta_N` and labels P(chosen preferred) `label_N`.

    Probabilities are those of the label as it was observed, with the stated share of noise.
    `groups` names each pair's prompt, for the error over other prompts.
    """
    delta_N, label_N = delta_N.double(), label_N.double()
    zero_N = torch.zeros_like(delta_N)
    temperature = fit_temperature(delta_N, label_N, noise)
    scaled_N = delta_N / temperature

    def log_loss(d_N: Tensor) -> Estimate:
        return clustered(bradley_terry_loss(d_N, zero_N, label_N, noise), groups)

    agree_N = agreement(delta_N, label_N)
    before = reliability(label_probability(delta_N, noise), label_N)
    after = reliability(label_probability(scaled_N, noise), label_N)
    return HeldOut(
        num_pairs=len(delta_N),
        num_prompts=len(set(groups)),
        accuracy=_accuracy(agree_N, delta_N, groups),
        log_loss=log_loss(delta_N),
        ece=expected_calibration_error(before),
        temperature=temperature,
        log_loss_scaled=log_loss(scaled_N),
        ece_scaled=expected_calibration_error(after),
        reliability=before,
        reliability_scaled=after,
    )


def _accuracy(agree_N: Tensor, delta_N: Tensor, groups: Sequence[Hashable]) -> Estimate:
    """The mean. Where all pairs agree with their labels alike the error is what the rule of three
    leaves to pairs, and prompts, that do not; of rewards that are all the same it is a half,
    exactly."""
    found = clustered(agree_N, groups)
    if not bool(delta_N.any()) or bool((agree_N != agree_N[0]).any()):
        return found
    new_prompts = found.standard_error_new_prompts
    if new_prompts is not None:
        new_prompts = max(new_prompts, RULE_OF_THREE / len(set(groups)) / NORMAL)
    return replace(
        found,
        standard_error=max(found.standard_error, RULE_OF_THREE / len(agree_N) / NORMAL),
        standard_error_new_prompts=new_prompts,
    )


def agreement(delta_N: Tensor, label_N: Tensor) -> Tensor:
    """P(the label says what sign(delta) says): l where delta > 0, 1 - l below, 1/2 at zero."""
    return 0.5 + (label_N - 0.5) * delta_N.sign()


def fit_temperature(delta_N: Tensor, label_N: Tensor, noise: float = 0.0) -> float:
    """T = argmin mean loss of delta / T: what turns rewards into log-odds.

    One number, by bounded search over log T (scipy), between 1e-3 and 1e3: it ends there where the
    pairs are all ordered rightly, or no better than by chance. Source: Guo et al. 2017, arXiv
    1706.04599, section 4.2.
    """
    zero_N = torch.zeros_like(delta_N)

    def cost(log_t: float) -> float:
        return float(bradley_terry_loss(delta_N / math.exp(log_t), zero_N, label_N, noise).mean())

    low, high = map(math.log, _TEMPERATURES)
    found = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x)  # pyright: ignore[reportAttributeAccessIssue]


def reliability(probability_N: Tensor, label_N: Tensor, bins: int = BINS) -> tuple[Bin, ...]:
    """Bins of equal width over the confidence max(q, 1 - q) in [0.5, 1]; empty ones left out.

    A pair counts once: read the other way round it would fall into the mirror image of its bin.
    """
    confidence_N = torch.maximum(probability_N, 1.0 - probability_N)
    right_N = agreement(probability_N - 0.5, label_N)
    edges = np.linspace(0.5, 1.0, bins + 1)
    place_N = torch.bucketize(confidence_N, torch.from_numpy(edges[1:-1]))
    found = []
    for at in range(bins):
        inside = place_N == at
        count = int(inside.sum())
        if count:
            confidence, accuracy = confidence_N[inside].mean(), right_N[inside].mean()
            found.append(
                Bin(
                    float(edges[at]),
                    float(edges[at + 1]),
                    count,
                    float(confidence),
                    float(accuracy),
                )
            )
    return tuple(found)


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """ECE = sum_b (n_b / N) |accuracy_b - confidence_b| (Guo et al. 2017, arXiv 1706.04599)."""
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / total


def clustered(values_N: Tensor, groups: Sequence[Hashable]) -> Estimate:
    """The mean over pairs. `standard_error` for these prompts; `standard_error_new_prompts` lets
    the pairs of one prompt depend on each other, by Student's t where there are few prompts.
    Infinite for a single pair."""
    if len(values_N) < 2:
        return Estimate(float(values_N.mean()), math.inf, "unbiased", len(values_N))
    plain = mean_estimate(values_N)
    place = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    if len(place) < 2:
        return plain
    at_N = torch.tensor([place[group] for group in groups])
    total_G = torch.zeros(len(place), dtype=torch.float64)
    total_G.index_add_(0, at_N, values_N - plain.value)
    free = len(place) - 1
    error = math.sqrt(len(place) / free * float(total_G.square().sum())) / len(values_N)
    return Estimate(
        plain.value,
        plain.standard_error,
        plain.kind,
        len(values_N),
        standard_error_new_prompts=t_factor(free) * error,
        degrees_of_freedom=plain.degrees_of_freedom,
    )

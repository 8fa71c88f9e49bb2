"""What was asked of a policy beside the evidence, and what says nothing where nothing was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from posteriori.core.protocols import WantedMean
from posteriori.core.types import Estimate
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.report.safe_text import with_error

MEAN_OF = "Mean of "
"""How the name of a wanted mean begins, as a report names it."""

AGAINST_TARGET = frozenset(
    (
        *("kl_to_target", "kl_from_target", "wasted_nats", "effective_beta", "target_entropy"),
        *("ess", "pareto_k", "elbo", "eubo", "log_z", "log_z_upper", "tv", "js"),
    )
)
"""Figures that say nothing where the target is the prior itself, without evidence."""

_Figure = TypeVar("_Figure")


def label_of(mean: WantedMean) -> str:
    """How a report names the mean."""
    of = with_error(mean.lambda_)
    return f"{MEAN_OF}'{mean.name}' ({mean.wanted:g} wanted, lambda {of})"


def pair_labels(*, held_out: bool) -> tuple[str, str]:
    """How a report names the share of pairs that are ordered as labelled, and their loss."""
    which = "held_out" if held_out else "trained_on"
    return f"accuracy_{which}", f"loss_{which}"


def asked_of(report: Report) -> dict[str, Estimate]:
    """pass@k of a verifier, the means that moments want, and how the policy orders preference
    pairs."""
    found = dict(report.passes)
    found |= {label_of(each): each.attained for each in report.means}
    if report.pairs is not None:
        accuracy, loss = pair_labels(held_out=report.pairs.held_out)
        found |= {accuracy: report.pairs.accuracy, loss: report.pairs.loss}
    return found


def shown_figures(figures: Mapping[str, _Figure], *, against_target: bool) -> dict[str, _Figure]:
    """Those that a page shows: without evidence a KL "to the target" is the distance from the prior
    and would read as harm."""
    return {
        name: each for name, each in figures.items() if against_target or name not in AGAINST_TARGET
    }

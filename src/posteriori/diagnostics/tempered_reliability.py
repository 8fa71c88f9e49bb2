"""Whether weighted draws can be trusted at prior x evidence^t: by their weights, and by
coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from posteriori.core.reliability import fault_of, share_the_largest

from .mixture import Mixture

_SEEN = 7.0
"""Draws of the prior that a part of p*_t must have had: with so many expected, all of them miss a
part with probability e^-7 < 0.001."""


def fault_of_mixture(mixture: Mixture) -> str:
    """What is wrong with one prompt's weights p~/m, by `core.reliability.fault`; empty if nothing
    is."""
    weights = torch.cat(mixture.log_weight)
    known = mixture.known and share_the_largest(weights)
    return fault_of(weights, mixture.log_z(), missed=mixture.missed(), known=known)


def fault_at(mixtures: Sequence[Mixture], t: float) -> str:
    """What is wrong with any prompt's weights at t; empty if nothing is. At t = 0 there are none to
    be trusted."""
    if t == 0:
        return ""
    if math.isinf(t):
        return "all that the policy writes has the most evidence that was seen"
    faults = (fault_of_mixture(m.tempered(t)) for m in mixtures)
    return next(filter(None, faults), "")


def unseen(mixtures: Sequence[Mixture], t: float) -> float:
    """The share of p*_t, in the worst prompt, on outcomes where it is over n/7 times the prior: of
    all these together, n draws of the prior have fewer than 7."""
    worst = 0.0
    for tempered in (m.tempered(t) for m in mixtures):
        seen = tempered.log_z_value + math.log(len(tempered.log_weight[-1]) / _SEEN)
        beyond = [(s.log_evidence_n > seen).double() for s in tempered.strata]
        worst = max(worst, tempered.target_mean(beyond).value)
    return worst

"""How far weighted draws tell of prior e^t: by their weights, and by who has been there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..numerics import ess, reliable_k
from ..types import Estimate
from .mixture import Mixture

LARGE_ERROR = 0.1
"""Standard error of log Z at which a hundred draws of a prompt are effective."""

NEARLY_EQUAL = 0.5
"""Share of effective draws above which k-hat is not asked: it is the shape of the weights' tail
whatever their spread, and near the prior they are all but equal."""

_SEEN = 7.0
"""Draws of the prior that a part of p*_t must have had: with so many expected, all of them miss a
part with probability e^-7 < 0.001."""


def fault_of(log_w_n: Tensor, log_z: Estimate, k: float) -> str:
    """What is wrong with one prompt's weights, of this log Z and k-hat; empty if nothing is."""
    limit = reliable_k(len(log_w_n))
    if log_z.value == -math.inf or math.isnan(k):
        return "too few draws of a prompt have any weight"
    if k > limit and ess(log_w_n) < NEARLY_EQUAL * len(log_w_n):
        return f"Pareto k-hat of a prompt's weights is {k:.2f}, above {limit:.2f}"
    if log_z.standard_error > LARGE_ERROR:
        return "fewer than a hundred draws of a prompt are effective"
    return ""


def fault_at(mixtures: Sequence[Mixture], t: float) -> str:
    """What is wrong with any prompt's weights at t; empty if nothing is. At t = 0 there are none to
    be trusted."""
    if t == 0:
        return ""
    if math.isinf(t):
        return "all that the policy writes has the most evidence that was seen"
    each = (m.tempered(t) for m in mixtures)
    faults = (fault_of(torch.cat(m.log_weight), m.log_z(), m.pareto_k().value) for m in each)
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

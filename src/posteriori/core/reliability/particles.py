"""What particles may have missed: they climb to rare evidence by steps, where there are any."""

from __future__ import annotations

import math

from torch import Tensor

from posteriori.core.numerics import log_mean_exp
from posteriori.core.tensors import distinct

from .largest_evidence import NEAR, is_graded, jumps

_AT_THE_TOP = 0.25
"""Share of the target within a nat of the most evidence: particles have come to where it ends."""

_LAST, _DIES_OUT = 3.0, 0.1
"""Nats below the most evidence, and a share of the target: where less than it is that high the
target grows rarer towards the top, and what lies beyond is a small part of it."""

_TRIES = 3.0
"""Outcomes that a particle has tried at least: what it began as, and two moves."""


def largest_missed(
    log_w_n: Tensor,
    log_prior_n: Tensor,
    log_e_n: Tensor,
    most: float,
    *,
    from_prior: bool = True,
) -> float:
    """The log-weight by which particles may have missed rare evidence, for the rule of three
    (`missed`); -inf where they have found it as far as anybody can tell.

    All of one prompt's particles [n]; `most` is the most evidence there may be. What lies beyond a
    gap (`jumps`) is found by chance alone, as by independent draws. So are grades, but for those
    within a nat of the most where a quarter of the target is, and so is the end of evidence that
    does not die out towards it; of that each particle has tried three outcomes. Weights of another
    proposal than the prior (`from_prior`) are not the evidence: a gap alone says something of them.
    """
    if jumps(log_e_n, most):
        return most
    if not from_prior or bool(log_w_n.isneginf().all()):
        return -math.inf
    share_n, below_n = log_w_n.softmax(0), most - log_e_n
    if float(share_n[below_n <= NEAR].sum()) >= _AT_THE_TOP:
        return -math.inf
    if is_graded(log_e_n):
        return most
    last_n = below_n <= _LAST
    # What the outcomes' own probabilities say counts too: of one that was found late, and holds
    # much of the target, there are too few particles.
    log_target_k = distinct((log_prior_n + log_e_n)[last_n]) - float(log_mean_exp(log_w_n))
    last = max(float(share_n[last_n].sum()), float(log_target_k.exp().sum()))
    return -math.inf if last < _DIES_OUT else most - math.log(_TRIES)

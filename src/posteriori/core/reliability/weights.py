"""Whether the weights of a prompt's draws can be trusted.

k-hat (Vehtari et al. 2024, arXiv 1507.02646) is the shape of the tail of the weights. The larger it
is, the more of the sum rests on the few largest weights, and the more draws an average needs. It
cannot see what no draw has shown: that is what `unseen.py` is for.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from scipy.special import chdtri  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from posteriori.core.numerics import FEWEST_FOR_A_TAIL, ess, pareto_k, reliable_k, t_factor
from posteriori.core.tensors import distinct_places
from posteriori.core.types import Estimate

from .sizes import LARGE_ERROR, NORMAL, SAME

NEARLY_EQUAL = 0.5
"""Share of effective draws above which k-hat is not asked: it is the shape of the weights' tail
whatever their spread, and near the target they are all but equal."""

NO_WEIGHT = (
    f"fewer than {FEWEST_FOR_A_TAIL} draws of a prompt have any weight, too few to judge them"
)

_FEWEST_GROUPS, _FEWEST_EFFECTIVE = 8, 50.0
"""Populations that can show how many draws theirs are worth, and how many these have to be: 16 that
are each a copy of one are worth 16, and by chance (15 degrees of freedom) seem 50 once in 100."""

_TIED = 10
"""Draws that share the largest weight and so make a level of it, and no tail."""


def fault(
    k: float,
    effective: float,
    num_draws: int,
    error: float,
    missed: float = 0.0,
    *,
    known: bool = False,
    populations: int = 0,
) -> str:
    """What is wrong with one prompt's weights, in words; empty if nothing is.

    They are trusted where

    at least 25 are above zero (k-hat is NaN else),
    k-hat <= min(1 - 1 / log10 n, 0.7)   or at least half of the draws are effective, or the largest
    weight that there can be is `known` and has a say in what may have been missed,
    and the standard error of log Z is at most 0.1 nats: that of the draws' own spread, and that by
    what they may have `missed`.

    `error` and `missed`, the part of it, are in nats; `effective` counts draws. An error over so
    many `populations` of particles has to be above 0.1 beyond chance: that of four is off by half.
    """
    if math.isnan(k):
        return NO_WEIGHT
    bounded = known and missed <= LARGE_ERROR
    if not bounded and heavy_tail(k, effective, num_draws):
        limit = reliable_k(num_draws)
        return f"pareto_k is {k:.2f} for a prompt's weights, above {limit:.2f}"
    if missed > LARGE_ERROR:
        return (
            f"what {num_draws} draws of a prompt may have missed (3/n of the probability, at the "
            f"most evidence there may be) would raise log_z by {NORMAL * missed:.2g} nats"
        )
    own = math.sqrt(max(0.0, error**2 - missed**2)) if math.isfinite(error) else error
    if own <= LARGE_ERROR * (_by_chance(populations - 1) if populations > 1 else 1.0):
        return ""
    return large(own)


def large(error: float) -> str:
    """The words for a standard error of log Z, nats, above `LARGE_ERROR`."""
    return (
        f"the standard error of log_z is {error:.2g} nats, that of under a hundred effective draws"
    )


@lru_cache(maxsize=256)
def _by_chance(degrees_of_freedom: int) -> float:
    """By how much more than itself an error of so many degrees of freedom is once in ten times:
    1.44 of four values, 1.22 of sixteen."""
    return math.sqrt(float(chdtri(degrees_of_freedom, 0.1)) / degrees_of_freedom)


def heavy_tail(k: float, effective: float, num_draws: int) -> bool:
    """Whether k-hat is above its limit, min(1 - 1 / log10 n, 0.7), where it is asked at all."""
    return k > reliable_k(num_draws) and effective < NEARLY_EQUAL * num_draws


def fault_of(
    log_w_n: Tensor,
    log_z: Estimate,
    k: float | None = None,
    missed: float = 0.0,
    *,
    known: bool = False,
    populations: int = 0,
) -> str:
    """`fault` of one prompt's log-weights [n] and their log Z; k-hat where it is known already.

    The error is judged without what Student's t adds to it: few values make a wide interval, which
    is right, and no sign of anything.
    """
    if int((log_w_n > -math.inf).sum()) < FEWEST_FOR_A_TAIL:
        return NO_WEIGHT
    effective = float(ess(log_w_n))
    if k is None:
        nearly_equal = effective >= NEARLY_EQUAL * len(log_w_n)
        k = -math.inf if nearly_equal else pareto_k(log_w_n)
    error = log_z.standard_error
    if math.isfinite(error) and error > missed:
        own = math.sqrt(error**2 - missed**2) / t_factor(log_z.degrees_of_freedom)
        error = math.hypot(own, missed)
    return fault(k, effective, len(log_w_n), error, missed, known=known, populations=populations)


def share_the_largest(log_w_n: Tensor) -> bool:
    """Whether ten draws and more have the largest weight. k-hat is of a tail: where the most
    evidence is known besides, the weights end at that level, and not in one."""
    return int((log_w_n >= log_w_n.max() - SAME).sum()) >= _TIED


def fault_of_groups(log_w_n: Tensor, value_n: Tensor, group_n: Tensor) -> str:
    """What is wrong with populations of particles that are each copies of a few.

    The error of E_p*[f] over the groups against what it were for independent draws says how many
    draws they are worth. Of fewer than eight groups that is no more than noise; f is `value_n`.
    """
    names, row_n = distinct_places(group_n)
    groups, num = len(names), len(log_w_n)
    if groups < _FEWEST_GROUPS or groups == num:
        return ""
    share_n = log_w_n.softmax(0)
    on_n = share_n > 0
    off_n = torch.where(on_n, share_n * (value_n - float(share_n[on_n] @ value_n[on_n])), 0.0)
    off_G = torch.zeros(groups, dtype=torch.float64).index_add(0, row_n, off_n)
    alone, together = float(off_n.square().sum()), float(off_G.square().sum())
    least = min(_FEWEST_EFFECTIVE, 0.5 * num)
    if not alone * num < least * together:
        return ""
    return (
        f"the {num} draws of a prompt are worth {num * alone / together:.0f}: each of {groups} "
        "populations has copies of a few"
    )

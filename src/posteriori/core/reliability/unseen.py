"""The error by what draws may have missed: the rule of three."""

from __future__ import annotations

import math

from torch import Tensor

from posteriori.core.tensors import as_array

from .sizes import NORMAL, RULE_OF_THREE, SAME


def missed(log_z: float, log_max_weight: float, num_draws: int) -> float:
    """The standard error of log Z, nats, by what n independent draws may have missed:

        log(1 + 3 max(1, w_max / Z-hat) / n) / 1.96

    With a confidence of 95% what no draw has shown has a probability of at most 3/n, so that Z is
    at most Z-hat + 3/n w_max, and 1.96 of these errors reach it. Outcomes of no weight can be
    missed likewise: draws that all weigh the same never have an error of 0. That so much is missed
    that Z-hat is off by over five errors has a chance of at most e^-7.
    """
    if log_z == -math.inf or num_draws < 1:
        return math.inf
    log_x = math.log(RULE_OF_THREE / num_draws) + max(0.0, log_max_weight - log_z)
    return (log_x if log_x > 30 else math.log1p(math.exp(log_x))) / NORMAL


def missed_of_mean(values_n: Tensor, farthest: float, least: float = 0.0) -> float:
    """The same for the mean of n values: 3/n of the probability at `farthest`, or as far from the
    mean as the farthest value that was seen, and no nearer than `least`. 0 for infinite means: what
    was seen is certain."""
    value_n = as_array(values_n)
    mean = float(value_n.sum()) / len(value_n)
    away = max(least, float(value_n.max()) - mean, mean - float(value_n.min()))
    if math.isfinite(farthest):
        away = max(away, abs(farthest - mean))
    return missed_at(away, len(values_n))


def missed_at(away: float, num_draws: int) -> float:
    """The same, where it is known how far away what was missed may be."""
    if not math.isfinite(away):
        return 0.0
    return RULE_OF_THREE * away / num_draws / NORMAL


def left_out(values_n: Tensor, others_m: Tensor, log_ratio_m: Tensor) -> float:
    """The error of the mean of a policy's n values by what draws of the prior show and they do not:

        (1/m) sum_j min(3, pi/prior) |f_j - mean| / 1.96,   j with f_j beyond all of the n,

    which is how much of the policy's own mean such outcomes make. `others_m` are f of the prior's
    draws, `log_ratio_m` their log pi/prior; one draw stands for no more than the rule of three
    leaves.
    """
    # The same outcome, scored in another batch, is off by rounding and not beyond itself.
    beyond_m = (others_m > values_n.max() + SAME) | (others_m < values_n.min() - SAME)
    beyond_m = beyond_m & others_m.isfinite()
    if not bool(beyond_m.any()):
        return 0.0
    weight_m = log_ratio_m[beyond_m].clamp(max=math.log(RULE_OF_THREE)).exp()
    away_m = (others_m[beyond_m] - values_n.mean()).abs()
    return float((weight_m * away_m).sum()) / len(others_m) / NORMAL


SURPRISE = 1.0
"""Nats. By so much at least outcomes that were not drawn may be more surprising than all that were:
draws that are all as probable as each other do not show that the others are too."""


def rarest(surprise_n: Tensor, lifted: float = 0.0) -> float:
    """-log of the probability of what n draws may have missed, log(n / 3), and of more by `lifted`
    nats; NaN where their own `surprise_n` = -log p are as large as that."""
    least = math.log(max(1.0, len(surprise_n) / RULE_OF_THREE)) + lifted
    return least if least > float(surprise_n.mean()) else math.nan

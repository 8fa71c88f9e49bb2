"""Ensembles of heads whose spread is as wide as what the pairs leave open."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from posteriori.core.numerics import t_factor

from .laplace import Laplace, PairFeatures, fit_head, integrated, laplace
from .reward_trainer import bootstrap_weights

MANY = 20
"""Pairs per dimension from which resamples of the pairs differ by as much as is not known."""


def solved(
    pairs: PairFeatures, members: int, seed: int, precision: float | None = None
) -> tuple[Tensor, Laplace]:
    """Heads [K, D], each the best of its own bootstrap resample under the prior precision, which is
    what suits the pairs best unless it is given; and the Laplace approximation at it."""
    found = laplace(pairs, precision)
    weight_NK = bootstrap_weights(len(pairs.label_N), members, seed)
    heads = [fit_head(pairs, found.precision, w_N, found.mean_D) for w_N in weight_NK.T]
    return torch.stack(heads), found


def widened(
    member_KD: Tensor,
    pairs: PairFeatures,
    posterior: Callable[[PairFeatures], Laplace] = integrated,
) -> Tensor:
    """The members with their deviations from their mean made larger by the factor

        t(K - 1) sqrt(1 + 1/K) max(1, c),   c^2 = mean_n d_n^T S d_n / mean_n var_k(w_k . d_n),

    d_n being the pairs' feature differences and S the covariance of the Laplace approximation about
    the members' mean. Heads of resamples of few pairs agree where nothing is known, for the prior
    holds all of them in one place (c); and K members show their own spread, and its middle, as K
    draws do (Student's t). From twenty pairs per dimension on c is 1. One member stays as it is.
    """
    members = len(member_KD)
    if members < 2:
        return member_KD
    member_KD = member_KD.double()
    mean_D = member_KD.mean(0)
    deviation_KD = member_KD - mean_D
    factor = t_factor(members - 1) * math.sqrt(1 + 1 / members)
    num, width = pairs.diff_ND.shape
    between = float((pairs.diff_ND @ deviation_KD.T).var(-1, unbiased=True).mean())
    if num < MANY * width and between > 0:
        found = posterior(pairs)
        off_N = pairs.diff_ND @ (found.mean_D - mean_D)
        of_pair_N = ((pairs.diff_ND @ found.covariance_DD) * pairs.diff_ND).sum(-1)
        factor *= max(1.0, math.sqrt(float((of_pair_N + off_N.square()).mean()) / between))
    return mean_D + factor * deviation_KD

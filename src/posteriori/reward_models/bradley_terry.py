"""Bradley-Terry: from a difference of rewards to the probability of a label, and its loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def label_probability(delta_N: Tensor, noise: float = 0.0) -> Tensor:
    """q = (1 - eps) sigmoid(delta) + eps sigmoid(-delta): that `chosen` is labelled as preferred.

    delta = r(chosen) - r(rejected) in nats of log-odds; eps = `noise` is the share of labels that
    were swapped, whatever the pair.
    """
    return noise + (1.0 - 2.0 * noise) * delta_N.sigmoid()


def bradley_terry_loss(delta: Tensor, margin: Tensor, label: Tensor, noise: float = 0.0) -> Tensor:
    """-l log q(z) - (1 - l) log q(-z) with z = delta - margin, in nats per pair.

    Shapes broadcast. `label` l is P(chosen is preferred): 1 for a plain pair, where the loss is
    -log sigmoid(r_chosen - r_rejected - margin), 0.5 for a tie. With `noise` eps in [0, 0.5),
    q(z) = (1 - eps) sigmoid(z) + eps sigmoid(-z), so that no label is worth more than log(1/eps)
    (Bradley and Terry 1952; margins as in Touvron et al. 2023, arXiv 2307.09288, section 3.2.2).
    """
    z = delta - margin
    return -label * _log_q(z, noise) - (1.0 - label) * _log_q(-z, noise)


def _log_q(z: Tensor, noise: float) -> Tensor:
    if noise == 0.0:
        return logsigmoid(z)
    kept, swapped = math.log1p(-noise), math.log(noise)
    return torch.logaddexp(logsigmoid(z) + kept, logsigmoid(-z) + swapped)


def slope(z_N: Tensor, label_N: Tensor, noise: float = 0.0) -> Tensor:
    """d loss / d z of each pair: sigmoid(z) - l where there is no noise."""
    q_N, spread_N = _moments(z_N, noise)
    return (q_N - label_N) * spread_N / (q_N * (1.0 - q_N))


def curvature(z_N: Tensor, noise: float = 0.0) -> Tensor:
    """The Fisher information of one label about z: q'(z)^2 / (q (1 - q)), at least zero.

    Without noise it is sigmoid(z) sigmoid(-z), the second derivative of the loss whatever the
    label; with noise, its expectation over labels.
    """
    q_N, spread_N = _moments(z_N, noise)
    return spread_N.square() / (q_N * (1.0 - q_N))


def _moments(z_N: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    # Clamped where sigmoid(z) is 1 to rounding: the quotients above tend to finite limits there.
    z_N = z_N.clamp(-_FLAT, _FLAT)
    return label_probability(z_N, noise), (1.0 - 2.0 * noise) * z_N.sigmoid() * (-z_N).sigmoid()


_FLAT = 30.0
"""Nats of log-odds past which float64 cannot distinguish 1 - sigmoid(z) from rounding."""

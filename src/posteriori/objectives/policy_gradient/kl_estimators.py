"""Estimates of KL(pi, prior) from one draw, token by token: Schulman's k1, k2 and k3."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(kind: Estimator, log_pi_NL: Tensor, log_prior_NL: Tensor) -> Tensor:
    """With x = log prior_t - log pi_t:  k1 = -x,  k2 = x^2 / 2,  k3 = exp(x) - 1 - x;  [N, L].

    In nats, and zero beyond a completion's end, where both log-probs are. On draws from pi, given
    the prefix, E[k1] = E[k3] = KL(pi_t, prior_t), k3 with less variance; E[k2] agrees with them to
    second order. As *values* all three will do. Their gradients are another matter: what each one
    does in the reward or in the loss is in docs/kl-estimators.md, and only k1 in the reward has the
    gradient of KL(pi, prior). (Schulman 2020, joschu.net/blog/kl-approx.html.)
    """
    x_NL = log_prior_NL - log_pi_NL
    if kind == "k1":
        return -x_NL
    if kind == "k2":
        return x_NL.square() / 2
    return torch.expm1(x_NL) - x_NL

"""The strength of the evidence at which the posterior is nearest to a policy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import root_scalar
from torch import Tensor

_ROUNDING = 1e-12
"""Of the evidence's size: slopes below it are zero."""


class Tilt:
    """mean_c KL(pi, p*_t) = K - t E_pi[log e] + mean_c log Z_c(t) as a function of t > 0.

    p*_t ~ prior e^t. The function is convex: log Z_c(t) is, and the rest is linear. Its slope is
    mean_c E_t[log e] - E_pi[log e], its curvature mean_c Var_t[log e].

    `log_base[c]` [n] are log-weights under which a draw stands for the prior (log prior itself for
    every outcome once, log prior/q for draws of q), `log_evidence[c]` [n] goes with them, as many
    for each prompt c; `mean_log_evidence` is E_pi[log e], the mean over prompts. Outcomes that the
    evidence rules out are ruled out for every t > 0.
    """

    def __init__(
        self, log_base: Sequence[Tensor], log_evidence: Sequence[Tensor], mean_log_evidence: float
    ) -> None:
        log_e_PN, log_base_PN = torch.stack(list(log_evidence)), torch.stack(list(log_base))
        self.on_PN = ~log_e_PN.isneginf() & ~log_base_PN.isneginf()
        self.log_e_PN = log_e_PN.where(self.on_PN, 0.0)
        self.log_base_PN = log_base_PN.where(self.on_PN, -math.inf)
        self.of_policy = mean_log_evidence
        self.zero = _ROUNDING * max(1.0, float(self.log_e_PN.abs().max()))

    def weight(self, t: float) -> Tensor:
        """p*_t of each draw among its prompt's; [P, n]."""
        return (self.log_base_PN + t * self.log_e_PN).softmax(-1)

    def slope(self, t: float) -> float:
        return float((self.weight(t) * self.log_e_PN).sum(-1).mean()) - self.of_policy

    def curvature(self, t: float) -> float:
        v_PN = self.weight(t)
        mean_P1 = (v_PN * self.log_e_PN).sum(-1, keepdim=True)
        return float((v_PN * (self.log_e_PN - mean_P1).square()).sum(-1).mean())

    def nearest(self) -> float:
        """The t >= 0 of the least mean KL, shared by all prompts.

        0 where the policy has no more evidence than the prior has, or writes what the evidence
        rules out (KL(pi, p*_t) is infinite for every t > 0 then); infinite where all that it writes
        has the most evidence there is; and 1, the target itself, where every t > 0 fits alike (a
        constraint alone).
        """
        if self.of_policy == -math.inf:
            return 0.0
        most_P = self.log_e_PN.where(self.on_PN, -math.inf).amax(-1)
        least_P = self.log_e_PN.where(self.on_PN, math.inf).amin(-1)
        if float((most_P - least_P).max()) <= self.zero:
            return 1.0
        if self.slope(0.0) >= -self.zero:
            return 0.0
        if float(most_P.mean()) - self.of_policy <= self.zero:
            return math.inf
        low, high = 0.0, 1.0
        while self.slope(high) < 0:
            low, high = high, 2.0 * high
        return root_scalar(self.slope, bracket=(low, high), xtol=1e-13, rtol=1e-13).root

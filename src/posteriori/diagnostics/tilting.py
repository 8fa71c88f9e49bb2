"""One prompt's posterior at every strength of the evidence, from one set of weighted draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics import pareto_k, variance_of_mean
from ..target import Target
from ..types import Draws, Estimate


def beta_of(target: Target) -> float:
    """The beta that all rewards of the target share (1 where it has none, or several at different
    betas), over the target's own temper: prior e^t is the posterior at `beta_of(target)` / t."""
    rewards = [each for each in target.evidence if getattr(each, "is_reward", False)]
    betas = {getattr(each, "beta", 1.0) for each in rewards}
    shared = betas.pop() if len(betas) == 1 else 1.0
    return shared / target.temper if target.temper else math.inf


@dataclass(frozen=True)
class Tilted:
    """p_t ~ prior e^t of one prompt: log Z(t), E_t[r], KL(p_t, prior), and k-hat of its weights."""

    log_z: Estimate
    reward: Estimate
    kl: Estimate
    pareto_k: float


class Stage:
    """Draws that are properly weighted for prior e^t0, and what they say of prior e^t, t near t0.

        w_i(t) = w_i e_i^(t - t0),   log Z(t) = log mean_i w_i(t),
        E_t[f] = sum_i w_i(t) f_i / sum_i w_i(t),   KL(p_t, prior) = t E_t[log e] - log Z(t).

    Draws of one group depend on each other; groups are independent, and of equal size. log Z(t) is
    below its true value in expectation, the others are consistent; standard errors are the delta
    method's. What hard evidence rules out is ruled out for every t > 0.
    """

    def __init__(self, draws: Draws, rows: Tensor, t0: float) -> None:
        self.t0 = t0
        self.log_e_n = draws.log_evidence_N[rows].cpu()
        self.reward_n = draws.reward_N[rows].cpu()
        self.log_w_n = draws.log_weight[rows].cpu()
        if t0 == 0:
            self.log_w_n = torch.zeros_like(self.log_e_n)
        group_n = None if draws.group_N is None or t0 == 0 else draws.group_N[rows].cpu()
        self.group_n = None if group_n is None else group_n.unique(return_inverse=True)[1]

    def at(self, t: float) -> Tilted:
        num = len(self.log_w_n)
        log_w_n = self.log_weight(t)
        log_z = float(log_w_n.logsumexp(0)) - math.log(num)
        if log_z == -math.inf:
            unknown = Estimate(math.nan, math.inf, "consistent", num)
            return Tilted(Estimate(log_z, math.inf, "lower_bound", num), unknown, unknown, math.nan)
        v_n = (log_w_n - log_z).exp()
        # Evidence zero has no weight where t > 0, and at t = 0 its logarithm does not count.
        log_e_n = self.log_e_n.where(~self.log_e_n.isneginf(), 0.0)
        mean_log_e = float((v_n * log_e_n).mean())
        return Tilted(
            Estimate(log_z, self._error(v_n), "lower_bound", num),
            self._reward(v_n),
            Estimate(
                t * mean_log_e - log_z,
                self._error(t * v_n * (log_e_n - mean_log_e) - v_n),
                "consistent",
                num,
            ),
            pareto_k(log_w_n),
        )

    def _reward(self, v_n: Tensor) -> Estimate:
        reward_n = self.reward_n.where(v_n > 0, 0.0)
        value = float((v_n * reward_n).mean())
        if math.isinf(value):
            return Estimate(value, 0.0, "exact", len(v_n))
        return Estimate(value, self._error(v_n * (reward_n - value)), "consistent", len(v_n))

    def log_weight(self, t: float) -> Tensor:
        """log w(t), float64 [n]."""
        if t == self.t0:
            return self.log_w_n
        log_w_n = self.log_w_n + (t - self.t0) * self.log_e_n
        return log_w_n.masked_fill(self.log_e_n.isneginf(), -math.inf)

    def _error(self, influence_n: Tensor) -> float:
        if self.group_n is None:
            return math.sqrt(float(variance_of_mean(influence_n)))
        groups = int(self.group_n.max()) + 1
        sum_G = torch.zeros(groups, dtype=torch.float64).index_add(0, self.group_n, influence_n)
        return math.sqrt(float(variance_of_mean(sum_G * groups / len(influence_n))))

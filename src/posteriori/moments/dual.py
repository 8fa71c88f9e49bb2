"""The convex dual of a maximum-entropy problem, over weighted draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posteriori.core.numerics import ess, pareto_k, t_factor

_RIDGE = 1e-3
"""Where no lambda attains the moments, this much curvature (per variance of a feature) still gives
a direction to draw in."""

_POLISH = 3
"""Newton steps at the end, each of which doubles the digits."""


@dataclass(frozen=True)
class Dual:
    """D(lambda) = (1/P) sum_c log E_c[exp(lambda . (phi - mu))],  E_c the mean over weighted draws.

    D is convex; its gradient (1/P) sum_c E_c,lambda[phi] - mu vanishes where the tilted mean is mu,
    and its Hessian is the mean covariance (Khalifa, Elsahar and Dymetman 2021, arXiv 2012.11635,
    section 2). `log_w_PN` are log-weights (-inf legal), `phi_PNK` features, `mu_K` what is
    wanted, `group_PN` equal for draws that depend on each other, `moved_K` the lambda that the
    draws were made at (0 by default), from which on `lambda_K` counts. Everything is float64.
    """

    log_w_PN: Tensor
    phi_PNK: Tensor
    mu_K: Tensor
    group_PN: Tensor | None = None
    moved_K: Tensor | None = None

    @property
    def at_K(self) -> Tensor:
        """The lambda that the draws were made at."""
        return torch.zeros_like(self.mu_K) if self.moved_K is None else self.moved_K

    def tilted(self, lambda_K: Tensor) -> Tensor:
        """log of the normalised weights of each prompt's draws at lambda, [P, N]."""
        return (self.log_w_PN + (self.phi_PNK - self.mu_K) @ lambda_K).log_softmax(-1)

    def mean(self, lambda_K: Tensor) -> Tensor:
        """E_c,lambda[phi], [P, K]."""
        return torch.einsum("pn,pnk->pk", self.tilted(lambda_K).exp(), self.phi_PNK)

    def covariance(self, lambda_K: Tensor) -> Tensor:
        """The Hessian: (1/P) sum_c Cov_c,lambda[phi], [K, K]."""
        share_PN = self.tilted(lambda_K).exp()
        off_PNK = self.phi_PNK - self.mean(lambda_K)[:, None]
        return torch.einsum("pn,pnj,pnk->jk", share_PN, off_PNK, off_PNK) / len(share_PN)

    def scale(self, lambda_K: Tensor | None = None) -> Tensor:
        """The standard deviation of each feature within prompts, at lambda (0 by default); [K]."""
        at_K = torch.zeros_like(self.mu_K) if lambda_K is None else lambda_K
        return self.covariance(at_K).diagonal().sqrt()

    def minimum(self, *, ridge: bool = False) -> Tensor:
        """The lambda that minimises D, [K]; with `ridge` there is one even where D has none.

        Newton steps in a trust region (scipy's trust-exact), on features of unit variance.
        """
        from scipy.optimize import minimize

        scale_K = self.scale()
        standard = Dual(self.log_w_PN, (self.phi_PNK - self.mu_K) / scale_K, 0 * scale_K)
        log_z_P = self.log_w_PN.logsumexp(-1)
        curvature = _RIDGE if ridge else 0.0

        def value(x):
            t = torch.from_numpy(np.asarray(x))
            log_m_P = (standard.log_w_PN + standard.phi_PNK @ t).logsumexp(-1) - log_z_P
            return float(log_m_P.mean()) + 0.5 * curvature * float(t @ t)

        def gradient(x):
            t = torch.from_numpy(np.asarray(x))
            return (standard.mean(t).mean(0) + curvature * t).numpy()

        def hessian(x):
            t = torch.from_numpy(np.asarray(x))
            return (standard.covariance(t) + curvature * torch.eye(len(t))).numpy()

        found = minimize(
            value,
            np.zeros(len(scale_K)),
            jac=gradient,
            hess=hessian,
            method="trust-exact",
            options={"gtol": 1e-6, "maxiter": 500},
        )
        x = found.x
        # Here the value is flat to rounding, which a trust region goes by; the gradient is not.
        for _ in range(_POLISH):
            x = x - np.linalg.solve(hessian(x), gradient(x))
        return torch.from_numpy(x) / scale_K

    def reach(self) -> tuple[Tensor, Tensor]:
        """Between which values the mean of each feature can lie, [K] each."""
        there = self.log_w_PN.isneginf()[..., None]
        low_PK = self.phi_PNK.masked_fill(there, torch.inf).amin(1)
        high_PK = self.phi_PNK.masked_fill(there, -torch.inf).amax(1)
        return low_PK.mean(0), high_PK.mean(0)

    def attainable(self) -> bool:
        """Whether mu lies inside (not on the edge of) the hull of what the draws can average to.

        That is whether some weights, all above 0, give it: a linear program over distinct features.
        """
        low_K, high_K = self.reach()
        if not bool(((low_K < self.mu_K) & (self.mu_K < high_K)).all()):
            return False
        return len(self.mu_K) == 1 or _least_weight(self) > 1e-12

    def sandwich(self, lambda_K: Tensor) -> Tensor:
        """The standard error of lambda, [K]: the root of the diagonal of `uncertainty`."""
        return self.uncertainty(lambda_K).diagonal().sqrt()

    def uncertainty(self, lambda_K: Tensor) -> Tensor:
        """The covariance of lambda's errors, [K, K]: H^-1 V H^-1 with H the Hessian and V the
        variance of the tilted means, (1/P^2) sum_c sum_g (sum_{i in g} w_i (phi_i - E_c[phi]))^2,
        g the groups (delta method for self-normalised weights; few groups by Student's t), and in
        its square what the draws may have `missed`, which is at most 1.96 errors."""
        share_PN = self.tilted(lambda_K).exp()
        off_PNK = share_PN[..., None] * (self.phi_PNK - self.mean(lambda_K)[:, None])
        num_prompts = len(share_PN)
        _, missed_PK = self.missed(lambda_K)
        variance_KK = torch.zeros_like(self.covariance(lambda_K))
        for at in range(num_prompts):
            off_GK = off_PNK[at]
            if self.group_PN is not None:
                _, row_N = self.group_PN[at].unique(return_inverse=True)
                off_GK = torch.zeros(int(row_N.max()) + 1, off_GK.shape[1]).double()
                off_GK.index_add_(0, row_N, off_PNK[at])
            num = len(off_GK)
            widened = t_factor(num - 1) ** 2 * num / max(num - 1, 1)
            missed_KK = torch.outer(missed_PK[at], missed_PK[at]) / 1.96**2
            variance_KK += (widened * off_GK.T @ off_GK + missed_KK) / num_prompts**2
        inverse_KK = torch.linalg.inv(self.covariance(lambda_K))
        return inverse_KK @ variance_KK @ inverse_KK

    def effective(self, lambda_K: Tensor) -> Tensor:
        """Effective draws of each prompt at lambda, [P]."""
        return ess(self.tilted(lambda_K))

    def pareto_k(self, lambda_K: Tensor) -> list[float]:
        """The tail of each prompt's weights at lambda; NaN for draws that depend on each other,
        whose weights are no sample of one law."""
        if self.group_PN is not None:
            return [math.nan] * len(self.log_w_PN)
        return [pareto_k(each_N) for each_N in self.tilted(lambda_K)]

    def missed(self, lambda_K: Tensor) -> tuple[Tensor, Tensor]:
        """What each prompt's draws may have missed: its share of the weight at lambda [P], and how
        far the features' mean would be moved by it [P, K].

        The features of the most weight that draws of any prompt show may come after the others
        too. Where none of N draws has them, their probability there is below 3/N (the rule of
        three, 95%), and their share at lambda below x / (1 + x) with

            x = 3/N exp(lambda . phi_top) / E_c[exp(lambda . phi)],

        all seen from where lambda is 0, whose draws the first step of any sampler makes.
        """
        whole_K = lambda_K + self.at_K
        tilt_PN = (self.phi_PNK @ whole_K).masked_fill(self.log_w_PN.isneginf(), -math.inf)
        top = int(tilt_PN.argmax())
        phi_K, highest = self.phi_PNK.flatten(0, 1)[top], tilt_PN.flatten()[top]
        base_PN = self.log_w_PN - self.phi_PNK @ self.at_K
        log_mean_P = (self.log_w_PN + self.phi_PNK @ lambda_K).logsumexp(-1) - base_PN.logsumexp(-1)
        log_x_P = math.log(3 / self.log_w_PN.shape[1]) + highest - log_mean_P
        shown_P = tilt_PN.amax(1) >= highest - 1e-9 * (1 + highest.abs())
        share_P = log_x_P.sigmoid().masked_fill(shown_P, 0.0)
        return share_P, share_P[:, None] * (phi_K - self.mean(lambda_K))


def _least_weight(dual: Dual) -> float:
    """max t over p >= t: sum_u p_c,u = 1 for every prompt, (1/P) sum_c,u p_c,u phi_c,u = mu."""
    from scipy.optimize import linprog
    from scipy.sparse import block_diag, hstack, vstack

    distinct = [
        phi_NK[~log_w_N.isneginf()].unique(dim=0).numpy()
        for log_w_N, phi_NK in zip(dual.log_w_PN, dual.phi_PNK, strict=True)
    ]
    num_prompts, ones = len(distinct), block_diag([np.ones((1, len(u))) for u in distinct])
    everyone = np.concatenate(distinct)
    # p = t + slack, slack >= 0: the last column is t.
    sums = hstack([ones, np.array([[len(u)] for u in distinct])])
    means = np.concatenate([everyone.T, everyone.sum(0)[:, None]], axis=1) / num_prompts
    total = len(everyone)
    found = linprog(
        np.append(np.zeros(total), -1.0),
        A_eq=vstack([sums, means]),
        b_eq=np.append(np.ones(num_prompts), dual.mu_K.numpy()),
        bounds=[(0, None)] * total + [(None, None)],
    )
    return float(found.x[-1]) * total if found.x is not None else -1.0

"""One prompt's posterior at every strength of the evidence, from one set of weighted draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posteriori.core.hooks import BetaEvidence, rewards_among
from posteriori.core.numerics import Spread, pareto_k
from posteriori.core.reliability import (
    NO_WEIGHT,
    NORMAL,
    RULE_OF_THREE,
    fault_of,
    is_known,
    jumps,
    missed,
    missed_of_mean,
)
from posteriori.core.target import Target
from posteriori.core.types import Draws, Estimate, Kind


def beta_of(target: Target) -> float:
    """The beta that all rewards of the target share (1 where it has none, or several at different
    betas), over the target's own temper: prior e^t is the posterior at `beta_of(target)` / t."""
    rewards = rewards_among(target.evidence)
    given = [each.beta if isinstance(each, BetaEvidence) else None for each in rewards]
    betas = {1.0 if beta is None else beta for beta in given}
    shared = betas.pop() if len(betas) == 1 else 1.0
    return shared / target.temper if target.temper else math.inf


def proportional(draws: Draws, unit: float) -> bool:
    """Whether the reward is `unit` log e and a constant, wherever there is evidence."""
    on_N = ~draws.log_evidence_N.isneginf()
    rest_N = (draws.reward_N - unit * draws.log_evidence_N)[on_N]
    if len(rest_N) == 0 or not math.isfinite(unit):
        return False
    size = float(draws.reward_N[on_N].abs().max())
    return float(rest_N.max() - rest_N.min()) <= _ROUNDING * max(1.0, size)


_ROUNDING = 1e-6
"""Of a reward's size."""


@dataclass(frozen=True)
class Tilted:
    """p_t ~ prior e^t of one prompt: log Z(t), E_t[r], KL(p_t, prior), and k-hat of its weights.

    `kl_slope` and `reward_slope` are the derivatives in t.
    """

    log_z: Estimate
    reward: Estimate
    kl: Estimate
    pareto_k: float
    kl_slope: float = math.nan
    reward_slope: float = math.nan


class Stage:
    """Draws that are properly weighted for prior e^t0, and what they say of prior e^t, t near t0.

        w_i(t) = w_i e_i^(t - t0),   log Z(t) = log mean_i w_i(t),
        E_t[f] = sum_i w_i(t) f_i / sum_i w_i(t),   KL(p_t, prior) = t E_t[log e] - log Z(t).

    Draws of one group depend on each other; groups are independent, and of equal size. log Z(t) is
    below its true value in expectation, the others are consistent; standard errors are the delta
    method's, and what the draws may have missed: 3/n of the prior's probability
    (`core.reliability.missed`) at `log_max_evidence`, the most log e there may be, or at the most
    that was seen. `unit`: how much reward there is in a nat of it; `independent`: whether the draws
    are independent ones of a proposal (those of the prior are, t0 = 0), and no particles that have
    looked for evidence by steps; `stated`: the bound that the target states; `of_target`: whether
    they are draws of prior e^t0 itself, which all weigh the same; `weighed`: whether those at
    t0 = 0 come from a proposal near to the prior, and weigh prior/q. What hard
    evidence rules out is ruled out for every t > 0.
    """

    def __init__(
        self,
        draws: Draws,
        rows: Tensor,
        t0: float,
        log_max_evidence: float = -math.inf,
        unit: float = 0.0,
        *,
        independent: bool | None = None,
        stated: float | None = None,
        of_target: bool = False,
        weighed: bool = False,
    ) -> None:
        self.t0, self.weighed = t0, weighed
        self.log_e_n = draws.log_evidence_N[rows].cpu()
        self.reward_n = draws.reward_N[rows].cpu()
        self.log_w_n = draws.log_weight[rows].cpu()
        if t0 == 0:
            # 0, but for draws that an engine made for the prior.
            off_n = (draws.log_prior_N - draws.log_proposal_N)[rows].cpu()
            self.log_w_n = off_n if weighed else torch.zeros_like(self.log_e_n)
        group_n = None if draws.group_N is None or t0 == 0 else draws.group_N[rows].cpu()
        self.group_n = None if group_n is None else group_n.unique(return_inverse=True)[1]
        top = int(self.log_e_n.argmax())
        seen = float(self.log_e_n[top])
        most = max(seen, log_max_evidence)
        # What particles look for by steps, a gap alone can hide from them.
        alone = t0 == 0 if independent is None else independent
        self.may_miss = alone or jumps(self.log_e_n, most)
        # What the target's own draws have not shown is rare under it, and not under the prior.
        self.of_target = of_target
        self.may_miss = self.may_miss and not of_target
        self.known = t0 == 0 and is_known(self.log_e_n, stated)
        self.farthest = most if self.may_miss or of_target else seen
        self.farthest_reward = float(self.reward_n[top])
        if self.farthest > seen > -math.inf:
            self.farthest_reward += unit * (self.farthest - seen)

    def at(self, t: float) -> Tilted:
        num = len(self.log_w_n)
        log_w_n = self.log_weight(t)
        log_z = float(log_w_n.logsumexp(0)) - math.log(num)
        if log_z == -math.inf:
            unknown = Estimate(math.nan, math.inf, "consistent", num)
            return Tilted(Estimate(log_z, math.inf, "lower_bound", num), unknown, unknown, math.nan)
        v_n = (log_w_n - log_z).exp()
        log_e_n, reward_n = self._on(v_n)
        mean_log_e = float((v_n * log_e_n).mean())
        reward = float((v_n * reward_n).mean())
        kl = t * mean_log_e - log_z
        more = self._more(t, log_z, mean_log_e, reward)
        of_kl_n = t * v_n * (log_e_n - mean_log_e) - v_n
        finite = math.isfinite(reward)
        return Tilted(
            self._estimate(log_z, v_n, more[0], "lower_bound"),
            self._estimate(reward, v_n * (reward_n - reward), more[1])
            if finite
            else Estimate(reward, 0.0, "exact", num),
            self._estimate(kl, of_kl_n, more[2]),
            pareto_k(log_w_n),
            t * float((v_n * (log_e_n - mean_log_e).square()).mean()),
            float((v_n * (log_e_n - mean_log_e) * (reward_n - reward)).mean()),
        )

    def fault(self, t: float) -> str:
        """What is wrong with the weights at t (`core.reliability.fault`); empty if nothing is."""
        log_w_n = self.log_weight(t)
        log_z = float(log_w_n.logsumexp(0)) - math.log(len(log_w_n))
        if log_z == -math.inf:
            return NO_WEIGHT
        more = 0.0
        if t != 0 and self.may_miss:
            more = missed(log_z, t * self.farthest, len(log_w_n))
        found = self._estimate(log_z, (log_w_n - log_z).exp(), more, "lower_bound")
        groups = 0 if self.group_n is None else int(self.group_n.max()) + 1
        return fault_of(log_w_n, found, None, more, known=self.known, populations=groups)

    def kl_less_reward(self, t: float, rate: float) -> Estimate:
        """KL(t) - rate E_t[r], whose error is that of KL where the reward is held fixed and
        rate = dKL / dreward along t."""
        log_w_n = self.log_weight(t)
        log_z = float(log_w_n.logsumexp(0)) - math.log(len(log_w_n))
        v_n = (log_w_n - log_z).exp()
        log_e_n, reward_n = self._on(v_n)
        mean_log_e, reward = float((v_n * log_e_n).mean()), float((v_n * reward_n).mean())
        of_kl_n = t * v_n * (log_e_n - mean_log_e) - v_n
        more = self._more(t, log_z, mean_log_e, reward)
        return self._estimate(
            t * mean_log_e - log_z - rate * reward,
            of_kl_n - rate * v_n * (reward_n - reward),
            abs(more[2] - rate * more[1]),
        )

    def _on(self, v_n: Tensor) -> tuple[Tensor, Tensor]:
        """log e and the reward; 0 where there is no weight, so that 0 times infinity is 0."""
        return self.log_e_n.where(~self.log_e_n.isneginf(), 0.0), self.reward_n.where(v_n > 0, 0.0)

    def _more(
        self, t: float, log_z: float, mean_log_e: float, reward: float
    ) -> tuple[float, float, float]:
        """By how much log Z(t), E_t[r] and KL(t) would change, over 1.96, if 3/n of the prior's
        probability were where the most evidence is."""
        if self.of_target:
            return 0.0, self._rare(self.reward_n, self.farthest_reward), self._rare_log_e()
        if t == 0 or not self.may_miss:
            return 0.0, 0.0, 0.0
        num = len(self.log_e_n)
        of_log_z = missed(log_z, t * self.farthest, num)
        # Weight that a share q of the prior's probability has, beside what that had before.
        q, log_v = min(0.5, RULE_OF_THREE / num), t * self.farthest - log_z
        gain = float(np.logaddexp(math.log1p(-q), math.log(q) + log_v))
        share = math.exp(math.log(q) + log_v - gain)
        of_kl = share * t * (self.farthest - mean_log_e) - gain
        away = self.farthest_reward - reward
        return of_log_z, share * away / NORMAL, of_kl / NORMAL

    def _rare_log_e(self) -> float:
        return self._rare(self.log_e_n, self.farthest)

    def _rare(self, value_n: Tensor, farthest: float) -> float:
        """3/n of the target's own probability at `farthest`, or as far as the farthest draw, over
        1.96. Of draws in groups n is what they are worth, by how much the groups differ."""
        finite_n = value_n[value_n.isfinite()]
        if not len(finite_n):
            return 0.0
        worth = float(len(value_n))
        if self.group_n is not None:
            groups = int(self.group_n.max()) + 1
            off_n = value_n - value_n.mean()
            sum_G = torch.zeros(groups, dtype=torch.float64).index_add(0, self.group_n, off_n)
            alone, together = float(off_n.square().sum()), float(sum_G.square().sum())
            worth = min(worth, max(groups, worth * alone / together)) if together > 0 else groups
        return missed_of_mean(finite_n, farthest) * len(finite_n) / worth

    def log_weight(self, t: float) -> Tensor:
        """log w(t), float64 [n]."""
        if t == self.t0:
            return self.log_w_n
        log_w_n = self.log_w_n + (t - self.t0) * self.log_e_n
        return log_w_n.masked_fill(self.log_e_n.isneginf(), -math.inf)

    def _estimate(
        self, value: float, influence_n: Tensor, more: float, kind: Kind = "consistent"
    ) -> Estimate:
        error, degrees = Spread.of_means([influence_n], abs(more))
        if self.group_n is not None:
            groups = int(self.group_n.max()) + 1
            sum_G = torch.zeros(groups, dtype=torch.float64).index_add(0, self.group_n, influence_n)
            # No less than of independent draws: a few groups agree by chance.
            own = Spread.of_groups(sum_G * groups / len(influence_n), abs(more))
            if not own.error < error:
                error, degrees = own
        return Estimate(value, error, kind, len(influence_n), degrees_of_freedom=degrees)

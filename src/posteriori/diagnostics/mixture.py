"""log Z and KL(pi, p*) from draws of the policy and of the prior together.

Draws of the policy alone cannot show where the policy is missing mass: a collapsed policy gives
every draw the same weight, and looks perfect. Draws of the prior alone miss what the policy has
found. So Z is estimated by importance sampling from the even mixture m = (pi + prior) / 2, with as
many draws of each (deterministic mixture sampling with the balance heuristic: Veach and Guibas
1995; Owen and Zhou 2000). Its weights p~/m are at most 2 p~/prior = 2 e and at most 2 p~/pi.

That E_m[prior/m] = E_m[pi/m] = 1 is known, and m makes one of the two follow from the other. So
each draw counts with the share 1 / (N (1 + lambda c)), c = prior/m - 1, that makes it so for the
draws at hand too (empirical likelihood with a control variate: Owen 1991; Tan 2004). What is
estimated is then exact at evidence that does not vary, and for a policy that is the target; no KL
that is the least over a path which begins at the prior is above that to the prior.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from posteriori.core.numerics import Spread, pareto_k, spread_and_reach
from posteriori.core.reliability import beyond, missed, missed_at
from posteriori.core.tensors import as_array
from posteriori.core.types import Estimate, Kind

from .control_variates import control_variate, log_shares


@dataclass(frozen=True)
class Stratum:
    """Draws from one component of the mixture, for one prompt; float64 [n], nats."""

    log_pi_n: Tensor
    log_prior_n: Tensor
    log_evidence_n: Tensor

    @property
    def log_target_n(self) -> Tensor:
        """log p~ = log prior + log e."""
        return self.log_prior_n + self.log_evidence_n

    def tempered(self, t: float) -> Stratum:
        """The same draws, seen by prior e^t; what hard evidence rules out stays so for t -> 0."""
        log_e_n = (t * self.log_evidence_n).masked_fill(self.log_evidence_n.isneginf(), -math.inf)
        return Stratum(self.log_pi_n, self.log_prior_n, log_e_n)


class Mixture:
    """The strata of one prompt: draws of the policy first, then of the prior.

    Where policy and prior are one model there is a single stratum, and m = prior.
    `log_max_evidence`, nats: the most evidence that an outcome may have, as far as is known,
    and whether it is `known` and no guess by what was seen.
    """

    def __init__(
        self,
        policy: Stratum,
        prior: Stratum | None = None,
        log_max_evidence: float = -math.inf,
        *,
        known: bool = False,
    ) -> None:
        self.policy, self.log_max_evidence, self.known = policy, log_max_evidence, known
        self.strata = [policy] if prior is None else [policy, prior]
        self.share = 1.0 / len(self.strata)
        self.num_draws = sum(len(s.log_pi_n) for s in self.strata)
        self.log_m = [self.log_density(s) for s in self.strata]
        # Of draws of one model alone prior/m has no bound: it is 1, or nothing to go by.
        self.control = [
            torch.zeros_like(log_m_n) if prior is None else control_variate(s.log_prior_n - log_m_n)
            for s, log_m_n in zip(self.strata, self.log_m, strict=True)
        ]
        self.log_count = log_shares(self.control)
        # What each draw's f counts in E_m[f], and in E_m[f c].
        self._part = [
            self.share / len(log_count_n) * log_count_n.exp() for log_count_n in self.log_count
        ]
        self._control_N = as_array(torch.cat(self.control))
        self._part_c_N = as_array(torch.cat(self._part)) * self._control_N
        self._square = float(self._part_c_N @ self._control_N)
        self._weigh()

    def _weigh(self) -> None:
        """log p~/m of each draw, the same times how much the draw counts, and log of its mean."""
        self.log_weight = [
            s.log_target_n - log_m_n for s, log_m_n in zip(self.strata, self.log_m, strict=True)
        ]
        self.log_counted = [
            w_n + log_count_n
            for w_n, log_count_n in zip(self.log_weight, self.log_count, strict=True)
        ]
        self.log_z_value = float(torch.cat(self.log_counted).logsumexp(0)) - math.log(
            self.num_draws
        )

    def tempered(self, t: float) -> Mixture:
        """The same draws, seen by prior e^t."""
        other = self._seen_by([s.tempered(t) for s in self.strata])
        if math.isfinite(self.log_max_evidence):
            other.log_max_evidence = t * self.log_max_evidence
        return other

    def shifted(self, change: Sequence[Tensor]) -> Mixture:
        """The same draws, with log e of each stratum's changed by so much [n]."""
        return self._seen_by(
            [
                replace(s, log_evidence_n=s.log_evidence_n + change_n)
                for s, change_n in zip(self.strata, change, strict=True)
            ]
        )

    def _seen_by(self, strata: list[Stratum]) -> Mixture:
        other = copy.copy(self)
        for found in ("_missed", "_log_z", "_relative_weights"):
            vars(other).pop(found, None)
        other.strata, other.policy = strata, strata[0]
        other._weigh()
        return other

    @property
    def log_evidence_n(self) -> Tensor:
        """log e of all draws."""
        return torch.cat([s.log_evidence_n for s in self.strata])

    @cached_property
    def _missed(self) -> float:
        seen = max(float(each.max()) for each in self.log_weight)
        unseen = self.farthest_evidence() - math.log(self.share)
        return missed(self.log_z_value, max(seen, unseen), self.num_draws)

    def missed(self) -> float:
        """The error of log Z by what the draws may have missed (`core.reliability.missed`), nats.

        Draws of the prior alone may have missed the most evidence there is. Beside a policy that
        has come near to it the largest weight that was seen counts.
        """
        return self._missed

    def farthest_evidence(self) -> float:
        """The most log e that the draws may have missed; -inf where they have been near it."""
        if len(self.strata) == 1 or beyond(self.log_evidence_n, self.log_max_evidence):
            return self.log_max_evidence
        return -math.inf

    def most_lifted(self) -> float:
        """By how many nats the policy may write what the draws have missed more often than the
        prior does, if it is the target: 0 where they have been near the most evidence."""
        most = self.farthest_evidence()
        if len(self.strata) == 1 or not math.isfinite(most - self.log_z_value):
            return 0.0
        return max(0.0, most - self.log_z_value)

    def log_z(self) -> Estimate:
        """log of the mean weight p~/m. The mean is unbiased for Z but for O(1 / N^2), so it is
        below log Z in expectation (Jensen)."""
        return self._log_z

    @cached_property
    def _log_z(self) -> Estimate:
        if self.log_z_value == -math.inf:
            return Estimate(-math.inf, math.inf, "lower_bound", self.num_draws)
        influence = [self.share * v for v in self._relative_weights]
        return self.estimate(self.log_z_value, influence, "lower_bound", missed=self.missed())

    def kl_to_target(self) -> Estimate:
        """KL(pi, p*) = log Z - E_pi[rho], rho = log p~ - log pi.

        Both terms share the policy's draws, and the standard error takes account of it (delta
        method on log Z). Consistent: the bias is that of log Z, O(1/N). +inf as soon as one draw
        of the policy has evidence zero, and that is certain.
        """
        rho_n = self.policy.log_target_n - self.policy.log_pi_n
        if bool(rho_n.isneginf().any()):
            return Estimate(math.inf, 0.0, "exact", self.num_draws)
        value = self.log_z_value - float(rho_n.mean())
        influence = [self.share * v for v in self._relative_weights]
        return self.estimate(value, influence, minus_n=rho_n, missed=self.missed())

    def ess(self) -> Estimate:
        """n / (1 + chi^2(p*, pi)): what n draws of the policy are worth in draws of the target.

        The second moment E_p*[p*/pi] is taken over the mixture, so that mass of the target which
        the policy misses counts against it; Kish's (sum w)^2 / sum w^2 cannot see it.
        """
        num = len(self.policy.log_pi_n)
        if self.log_z_value == -math.inf:
            return Estimate(0.0, math.inf, "consistent", self.num_draws)
        # What has no weight has no say, and may be what the policy never writes: 0 times 0/0.
        log_terms = [
            (w - self.log_z_value + s.log_target_n - s.log_pi_n - self.log_z_value).masked_fill(
                w.isneginf(), -math.inf
            )
            for w, s in zip(self.log_counted, self.strata, strict=True)
        ]
        pooled = torch.cat(log_terms)
        log_moment = float(pooled.logsumexp(0)) - math.log(len(pooled))
        value = num * math.exp(-log_moment)
        influence = [
            self.share * (2 * v - (term - log_moment).exp())
            for v, term in zip(self._relative_weights, log_terms, strict=True)
        ]
        # Near the target the first order vanishes, and the second is what is left.
        of_log_z = self.log_z().standard_error
        more = (1.0 - value / num) * self.missed() + 2.0 * of_log_z**2
        return self.estimate(value, [value * each for each in influence], missed=value * more)

    def target_mean(self, values: list[Tensor]) -> Estimate:
        """E_p*[f] = E_m[v f], v = p*/m; `values` are f of each stratum's draws. Consistent."""
        if self.log_z_value == -math.inf:
            return Estimate(math.nan, math.inf, "consistent", self.num_draws)
        weights = self._relative_weights
        # What has no weight has no say, whatever f is there.
        terms = [
            torch.where(v_n > 0, v_n * f_n, 0.0) for v_n, f_n in zip(weights, values, strict=True)
        ]
        value = self.share * sum(float(each.mean()) for each in terms)
        if not math.isfinite(value):
            return Estimate(value, 0.0, "exact", self.num_draws)
        influence = [
            self.share * (term_n - value * v_n) for term_n, v_n in zip(terms, weights, strict=True)
        ]
        return self.estimate(value, influence)

    def pareto_k(self) -> Estimate:
        """k-hat of the weights p~/m, on which log Z and KL(pi, p*) rest."""
        value = pareto_k(torch.cat(self.log_weight))
        return Estimate(value, math.nan, "heuristic", self.num_draws)

    def mean(self, values: Sequence[Tensor]) -> float:
        """E_m[f] of each stratum's f [n]."""
        return sum(float((p_n * f_n).sum()) for p_n, f_n in zip(self._part, values, strict=True))

    def estimate(
        self,
        value: float,
        influence: Sequence[Tensor],
        kind: Kind = "consistent",
        *,
        minus_n: Tensor | None = None,
        missed: float = 0.0,
    ) -> Estimate:
        """A figure with the error that the influence of each stratum's draws makes, and with what
        they may have `missed`: by the rule of three, and by what is `missed` of log Z.

        Of an influence what the control variate foretells is taken out. `minus_n`: a plain mean
        over the policy's draws that is subtracted from the figure.
        """
        # By numpy, and for all strata at once: there are dozens of figures to each prompt.
        value_N = np.concatenate([as_array(f_n) for f_n in influence])
        if self._square > 0:
            # Under the shares c has a mean of 0, so that a constant in f changes nothing.
            value_N -= float(self._part_c_N @ value_N) / self._square * self._control_N
        if minus_n is not None:
            value_N[: len(minus_n)] -= as_array(minus_n)
        sizes = [len(f_n) for f_n in influence]
        ends = list(accumulate(sizes))
        parts = [value_N[end - num : end] for num, end in zip(sizes, ends, strict=True)]
        plain, degrees, reach = zip(*map(spread_and_reach, parts), strict=True)
        # What has not been seen may be as far from the mean as the farthest of the draws.
        seen = max(missed_at(far, num) for far, num in zip(reach, sizes, strict=True))
        error, degrees_of_freedom = Spread.of_spreads(
            plain, degrees, [num - 1.0 for num in sizes], max(seen, missed)
        )
        return Estimate(value, error, kind, self.num_draws, degrees_of_freedom=degrees_of_freedom)

    def log_policy_ratio(self) -> list[Tensor]:
        """log pi/m of each stratum's draws."""
        return [s.log_pi_n - log_m_n for s, log_m_n in zip(self.strata, self.log_m, strict=True)]

    def log_components(self, stratum: Stratum) -> list[Tensor]:
        """log q_s of some draws under each component of the mixture."""
        both = [stratum.log_pi_n, stratum.log_prior_n]
        return both[: len(self.strata)]

    def log_density(self, stratum: Stratum) -> Tensor:
        """log m of some draws."""
        if len(self.strata) == 1:
            return stratum.log_pi_n
        return torch.logaddexp(stratum.log_pi_n, stratum.log_prior_n) - math.log(2.0)

    @cached_property
    def _relative_weights(self) -> list[Tensor]:
        """w / Z-hat, times how much each draw counts."""
        return [(w - self.log_z_value).exp() for w in self.log_counted]

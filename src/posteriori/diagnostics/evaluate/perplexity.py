"""Perplexity of a policy's text under the prior: does it still read like the prior's language?"""

from __future__ import annotations

import math

from torch import Tensor

from posteriori.core.numerics import Spread
from posteriori.core.reliability import SURPRISE, missed_of_mean, rarest
from posteriori.core.types import Estimate


def perplexity(log_prior_n: Tensor, lengths_n: Tensor, lifted: float = 0.0) -> Estimate:
    """exp(sum_i -log prior(y_i) / sum_i |y_i|): of all tokens of the draws, end of sequence too.

    `log_prior_n` [n] nats per completion, `lengths_n` [n] tokens. Consistent for
    exp(E_pi[-log prior] / E_pi[|y|]); the standard error is the delta method's for that ratio. What
    the n draws may have missed has a -log prior of log(n/3), and of more by `lifted` where the
    policy may have lifted it above the prior by so many nats.
    Infinite where the prior cannot write a completion at all.
    """
    nll_n, length_n = -log_prior_n.double().cpu(), lengths_n.double().cpu()
    rate = float(nll_n.sum() / length_n.sum())
    if math.isinf(rate):
        return Estimate(math.inf, 0.0, "exact", len(nll_n))
    influence_n = (nll_n - rate * length_n) / length_n.mean()
    per_token = float(length_n.mean())
    farthest = (rarest(nll_n, lifted) - float(nll_n.mean())) / per_token
    missed = missed_of_mean(influence_n, farthest, SURPRISE / per_token)
    error, degrees = Spread.of_means([math.exp(rate) * influence_n], math.exp(rate) * missed)
    return Estimate(math.exp(rate), error, "consistent", len(nll_n), degrees_of_freedom=degrees)

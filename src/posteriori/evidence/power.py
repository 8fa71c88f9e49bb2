"""The prior's own log-prob as evidence: a sharper or flatter prior."""

from __future__ import annotations

import math

from torch import Tensor

from posteriori.core.display.shown import ShownEvidence
from posteriori.core.protocols import Columns, Scores
from posteriori.core.types import Completions
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import in_short, positive
from posteriori.errors import ConfigError


class Power(ShownEvidence):
    """log e(c, y) = (alpha - 1) log prior(y|c), so prior x e = prior^alpha.

    The target is the prior raised to alpha over whole completions: alpha > 1 prefers what the prior
    finds likely, alpha < 1 spreads out. That is not temperature 1/alpha, which raises each token's
    distribution and does not know what a token leads to. log Z(c) = log sum_y prior(y|c)^alpha, the
    Renyi entropy of order alpha times (1 - alpha).

    The prior's log-probs come with the draws (`PriorEvidence`): it is never run again. The reward
    that is reported is log prior(y|c), in nats. What the prior rules out stays ruled out for every
    alpha. For alpha >= 1 the evidence is at most 1, so rejection from the prior is exact.

    Raises `ConfigError` for an alpha that is not a positive number.
    """

    needs_log_prior = True

    @named_arguments
    def __init__(self, alpha: float) -> None:
        power = positive(alpha)
        if power is None:
            raise ConfigError(
                f"alpha={in_short(alpha)} must be a positive number",
                where="Power",
                hint="above 1 it sharpens the prior, below 1 it flattens it",
            )
        self.alpha = power
        self.max_log_evidence = 0.0 if self.alpha >= 1 else None
        self.name = f"power {self.alpha:g} of the prior"

    def score(self, completions: Completions, columns: Columns, log_prior_N: Tensor) -> Scores:  # noqa: ARG002 - the prior says it all
        return Scores(self._log_evidence(log_prior_N), log_prior_N)

    def prefix_log_evidence(
        self,
        completions: Completions,  # noqa: ARG002 - the prior says it all
        columns: Columns,  # noqa: ARG002
        log_prior_N: Tensor,
    ) -> Tensor:
        """The same number of the prefix: what the evidence would be if it ended here for free."""
        return self._log_evidence(log_prior_N)

    def _log_evidence(self, log_prior_N: Tensor) -> Tensor:
        ruled_out_N = log_prior_N.isneginf()
        return ((self.alpha - 1) * log_prior_N).masked_fill(ruled_out_N, -math.inf)

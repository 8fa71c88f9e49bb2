"""The prior's own log-prob as evidence: a sharper or flatter prior."""

from __future__ import annotations

import math

from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import Columns, Scores
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import in_short, positive
from posteriori.errors import ConfigError
from posteriori.evidence.shown import ShownEvidence


class Power(ShownEvidence):
    """The prior's own log-prob as evidence: the target is the prior to a power.

        log e(c, y) = (alpha - 1) log prior(y|c),   prior x e = prior^alpha

    alpha > 1 prefers what the prior finds likely, alpha < 1 spreads out. That is not temperature 1
    / alpha, which raises each token's distribution and does not know what a token leads to. log Z
    is (1 - alpha) times the Renyi entropy of order alpha. The reward that is reported is log prior,
    in nats. For alpha >= 1 the evidence is at most 1, so rejection from the prior is exact.

    Args:
        alpha: the power, above 0.

    Raises:
        ConfigError: for an alpha that is not a positive number.

    Example:
        >>> exact = po.exact(po.Target(prior, po.Power(2.0), ["x"], 3))
        >>> log_z = float((2 * exact.log_prior[0]).logsumexp(0))
        >>> bool(abs(log_z - exact.log_z[0]) < 1e-9)
        True
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

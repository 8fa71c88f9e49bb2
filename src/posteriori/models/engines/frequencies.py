"""Does an engine draw from the distribution whose log-probs it reports?

A server that samples at another temperature, or by top-p, and reports the log-probs of the bare
model, shows nothing in log-probs: they are right, and the draws are not theirs. It shows in how
often probable tokens come. At each token, with q its reported distribution and f(v) = log q(v) for
the most probable tokens and the least of these for all others, f(y_t) - E_q[f] has mean zero, and
its sum is a martingale: temperature below 1 and top-p make it grow. The bound is Freedman's (1975),
which holds for steps of any law that are bounded, at all times at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .backend import Drawn

_LEAST = -4.0
"""Nats: f is no lower, so that a step is bounded."""

_FALSE_ALARM = 1e-9


class Frequencies:
    """A running sum of what was drawn less what the log-probs foretold; nats."""

    def __init__(self) -> None:
        self.sum = self.variance = 0.0
        self.tokens = 0

    def add(self, drawn: Sequence[Drawn]) -> None:
        """Count those in that came with the most probable next tokens."""
        for each in drawn:
            for token, log_prob, top in zip(each.token_ids, each.log_probs, each.top, strict=False):
                self._add(token, log_prob, top)

    def _add(self, token: int, log_prob: float, top: dict[int, float]) -> None:
        most = sorted(top.values(), reverse=True)
        if not most:
            return
        least = max(_LEAST, most[-1])
        rest = max(0.0, 1.0 - sum(map(math.exp, most)))
        terms = [(math.exp(v), max(_LEAST, v)) for v in most]
        terms.append((rest, least))
        mean = sum(p * f for p, f in terms)
        self.variance += sum(p * (f - mean) ** 2 for p, f in terms)
        drawn_f = max(_LEAST, log_prob) if token in top else least
        self.sum += drawn_f - mean
        self.tokens += 1

    @property
    def log_chance(self) -> float:
        """log of a bound on the probability that honest draws are so far off."""
        gap = abs(self.sum)
        if gap == 0.0:
            return 0.0
        return min(0.0, math.log(2) - gap**2 / (2 * (self.variance - _LEAST * gap / 3)))

    def fault(self) -> str | None:
        """What is wrong, in words; None where nothing is."""
        if self.log_chance >= math.log(_FALSE_ALARM):
            return None
        below = self.sum > 0
        return (
            f"over {self.tokens:,} tokens, probable ones came {'more' if below else 'less'} often "
            f"than the reported log-probs say (by {abs(self.sum) / self.tokens:.3g} nats per "
            f"token), so draws are made at a temperature {'below' if below else 'above'} 1"
            f"{', or by top-p or top-k,' if below else ''} and other log-probs are reported"
        )

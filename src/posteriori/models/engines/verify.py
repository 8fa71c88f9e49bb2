"""Has an engine the weights that it was given? Its log-probs of some completions say so.

An engine rounds otherwise than the model does, and in 16 bits by more than a training step changes.
So sizes alone do not distinguish old weights from new ones. But rounding does not depend on the
step: of the change delta that an update has made to log-probs, an engine with the new weights
misses nothing on average, one with the old weights all, one with some of them a part. The slope of
its error on delta says which, with a standard error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

_SIGMA = 6.0
"""Standard errors: a false alarm in 10^9 updates."""

_DECISIVE = 0.1
"""The slope's standard error below which an update counts as verified."""

_MISSED = 0.05
"""Share of an update that may be missing by rounding alone: in 16 bits small steps are lost."""

_GROWTH = 4.0
_FLOOR = 0.02
"""An engine's error may grow fourfold by an update, from no less than this share of what is
tolerated."""


class Comparison(NamedTuple):
    """Of M tokens: the engine's error, log q - log pi, as a root mean square before and after an
    update, and its slope on what the update changed; nats. NaN where there was no update."""

    error: float
    error_before: float = math.nan
    slope: float = math.nan
    slope_error: float = math.nan

    @property
    def decisive(self) -> bool:
        return self.slope_error < _DECISIVE

    def fault(self, tolerance: float) -> str | None:
        """What is wrong, in words; None where nothing is."""
        if not self.error <= tolerance:
            return (
                f"its log-probs differ from the model's by {self.error:.3g} nats per token, and "
                f"rounding explains {tolerance:.3g}"
            )
        if self.error_before > tolerance:
            return (
                f"the log-probs of its draws differ from the model's by {self.error_before:.3g} "
                f"nats per token, and rounding explains {tolerance:.3g}"
            )
        if self.slope < -_MISSED - _SIGMA * self.slope_error:
            return (
                f"it has {max(0.0, 1 + self.slope):.0%} of the last update "
                f"(± {self.slope_error:.0%})"
            )
        allowed = _GROWTH * max(self.error_before, _FLOOR * tolerance)
        if not math.isnan(self.slope) and self.error > allowed:
            return (
                f"by the last update its error grew from {self.error_before:.3g} to "
                f"{self.error:.3g} nats per token"
            )
        return None


def compared(q_M: Tensor, pi_M: Tensor, drawn_M: Tensor | None = None) -> Comparison:
    """The engine's and the model's log-probs of M tokens, without an update between; `drawn_M` are
    those that the engine gave when it drew them."""
    drawn = math.nan if drawn_M is None else _size(drawn_M - pi_M)
    return Comparison(_size(q_M - pi_M), drawn)


def compared_after(
    q_M: Tensor, pi_M: Tensor, q_before_M: Tensor, pi_before_M: Tensor
) -> Comparison:
    """The same after an update: of the same tokens the log-probs from before it are known."""
    error_M, change_M = q_M - pi_M, pi_M - pi_before_M
    square = float(change_M.square().sum())
    before = _size(q_before_M - pi_before_M)
    if square == 0.0:
        return Comparison(_size(error_M), before)
    slope = float((error_M * change_M).sum()) / square
    rest = float((error_M - slope * change_M).square().sum()) / max(1, len(error_M) - 1)
    return Comparison(_size(error_M), before, slope, math.sqrt(rest / square))


def _size(error_M: Tensor) -> float:
    return math.sqrt(float(error_M.square().mean())) if len(error_M) else 0.0

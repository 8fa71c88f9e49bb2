"""The learning rate "auto": the size of a step by what held-out draws say in nats."""

from __future__ import annotations

import math
from typing import Any

from .step_signal import Signal

MEMORY = 0.8
"""Weight of earlier steps in the averages."""

REACTION = 0.2
"""Largest change of the log rate in a step, and largest share of a displacement to take back."""


class AutoRate:
    """rate <- rate exp(0.2 r),  r = slope / (curvature + error of slope), within -1 and 1.

    The policy is prior x exp(l). Were l scaled by 1 + x, the distance to the target would fall by
    x slope - x^2 curvature / 2, with slope = Cov_pi(rho, l) and curvature = Var_pi(l)
    (`step_signal.signal_of`): so slope / curvature is Newton's step for the size of the whole
    displacement. It is positive while the run gains nats, 0 where what is spent is worth it, and
    negative where the policy has gone past the target, or has spent KL on noise; there the
    displacement itself is taken back as well (`shrink`), as far as the slope is negative beyond its
    own error. Averages are over about five steps, of draws that no update had used.

    It says nothing where the policy is still the prior; how large a first step is in nats is
    found by `first_step.calibrated`.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.calibrated = False
        self._weight = self._slope = self._curvature = self._variance = 0.0

    def observe(self, signal: Signal) -> None:
        """Count a step in, and change the rate; one draw, whose error is NaN, says nothing."""
        if math.isnan(signal.slope_variance):
            return
        fresh = 1 - MEMORY
        self._weight = MEMORY * self._weight + fresh
        self._slope = MEMORY * self._slope + fresh * signal.slope
        self._curvature = MEMORY * self._curvature + fresh * signal.curvature
        self._variance = MEMORY**2 * self._variance + fresh**2 * signal.slope_variance
        scale = self._curvature + math.sqrt(self._variance)
        if self.calibrated and scale > 0 and math.isfinite(self._slope):
            self.rate *= math.exp(REACTION * max(-1.0, min(1.0, self._slope / scale)))

    @property
    def shrink(self) -> float:
        """By what the displacement of the weights from the prior's is multiplied now: 1 mostly."""
        if self._curvature <= 0 or not math.isfinite(self._slope):
            return 1.0
        excess = (self._slope + math.sqrt(self._variance)) / self._curvature
        return 1.0 + REACTION * max(-1.0, min(0.0, excess))

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in vars(self):
            setattr(self, name, state[name])

"""Which of a run's policies is handed back: the last one, unless an earlier one was nearer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from posteriori.core.types import Finding
from posteriori.train.step_size.step_signal import Signal

WINDOWS = 10
"""Parts of a run, each of whose policies is judged by the draws made in it."""

_SURE_OF_PRIOR, _SURE_OF_EARLIER = 2.0, 3.0
"""Standard errors of a difference by which the prior, or the best of nine earlier policies, has to
be nearer: the best of several is so by chance more often."""

State = Mapping[str, Tensor]


@dataclass
class _Mean:
    """A mean of steps' gains, each weighing as its number of draws, and the variance of it."""

    total: float = 0.0
    variance: float = 0.0
    steps: int = 0

    def add(self, signal: Signal) -> None:
        self.total += signal.gain
        self.variance += signal.gain_variance
        self.steps += 1

    @property
    def value(self) -> float:
        return self.total / self.steps

    @property
    def error(self) -> float:
        return math.sqrt(self.variance) / self.steps


class Chosen(NamedTuple):
    """Weights to hand back in place of the last ones, and why."""

    state: dict[str, Tensor]
    finding: Finding


class Selection:
    """The nearest policy by held-out draws.

    A step's draws come from the policy (or meet it) before any update has used them, so the gain in
    nats that they show (`train.step_size.step_signal.Signal.gain`: the ELBO, or KL(p*, prior) -
    KL(p*, pi)) is without bias. A run is cut into ten windows, and each one's draws judge the
    policy that it began with. The last window stands for the policy at the end. An earlier one is
    handed back only if it was nearer by three standard errors of the difference, and the prior,
    which the first step's draws judge, if it was by two.
    """

    def __init__(self, steps: int, *, elsewhere: bool = False) -> None:
        """`elsewhere`: the policy started as another model than the prior."""
        self._began_as = "the model that it started as" if elsewhere else "the prior"
        self._length = max(1, -(-steps // WINDOWS))
        self._start: tuple[_Mean, dict[str, Tensor]] | None = None
        self._best: tuple[_Mean, dict[str, Tensor], int] | None = None
        self._now: tuple[_Mean, dict[str, Tensor], int] | None = None

    def begins(self, step: int) -> bool:
        """Whether the policy before this step is one that may be handed back."""
        return step <= 1 or step % self._length == 0

    def add(self, step: int, state: State | None, signal: Signal) -> None:
        """Count a step's draws in; `state` is a copy of the weights before the step, where it
        `begins` a window."""
        if state is not None:
            self._close()
            self._now = (_Mean(), dict(state), step)
        if self._now is None:
            return
        self._now[0].add(signal)
        if step == 0:
            self._start = (self._now[0], self._now[1])

    def _close(self) -> None:
        """Keep the window that ends if it is better than all before it."""
        if self._now is None or self._now[2] == 0:
            return
        if self._best is None or self._now[0].value > self._best[0].value:
            self._best = self._now

    def chosen(self) -> Chosen | None:
        """The policy to hand back in place of the last one, if there is such."""
        if self._start is None or self._now is None or self._now[2] == 0:
            return None
        last, (prior, first) = self._now[0], self._start
        candidates = [(prior, first, 0)] + ([self._best] if self._best is not None else [])
        nearest, state, step = max(candidates, key=lambda each: each[0].value)
        worse = nearest.value - last.value
        error = math.hypot(nearest.error, last.error)
        sure = _SURE_OF_EARLIER if step else _SURE_OF_PRIOR
        if not worse > sure * error:
            return None
        by = f"{worse:.2g} ± {error:.2g} nats"
        if step == 0:
            return Chosen(
                state,
                Finding(
                    "stop",
                    "no_gain",
                    f"training has brought the policy away from the target: {self._began_as} is "
                    f"nearer by {by}, by draws that no update had used. What is handed back is "
                    f"{self._began_as}.",
                    "Draw more (num_samples, steps), or find out with posteriori.frontier whether "
                    "there is anything to gain.",
                ),
            )
        return Chosen(
            state,
            Finding(
                "warn",
                "past_the_best",
                f"the policy before step {step} was nearer to the target than the last one, by "
                f"{by}, by draws that no update had used. It is what is handed back.",
                "Fewer steps, or a lower learning_rate, would have done.",
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "_start": _packed(self._start),
            "_best": _packed(self._best),
            "_now": _packed(self._now),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, packed in state.items():
            value = None
            if packed is not None:
                total, variance, steps, *others = packed
                value = (_Mean(total, variance, steps), *others)
            setattr(self, name, value)
        if self._start is not None and self._now is not None and self._now[2] == 0:
            self._start = (self._now[0], self._now[1])


def _packed(entry: tuple[Any, ...] | None) -> list[Any] | None:
    if entry is None:
        return None
    mean, *others = entry
    return [mean.total, mean.variance, mean.steps, *others]

"""How large the first step has to be: a given change of log pi, whatever the parameters are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_TRIES = 40
_NEAR = 1.1


def calibrated(
    parameters: Sequence[Tensor],
    before: Sequence[Tensor],
    change: Callable[[], float],
    wanted: float,
) -> float | None:
    """Scale the step that was just made, from `before` to where the parameters are, until `change`,
    half the mean squared change of log pi in nats, is within a tenth of what is wanted;
    returns the factor.

    None where the step changed nothing, and then nothing is scaled. A change that is not finite is
    too large. For small steps the change grows with the square of the factor, which finds it in two
    or three passes; where it jumps, the factor is bisected.
    """
    steps = [(now - old).clone() for now, old in zip(parameters, before, strict=True)]
    factor, low, high = 1.0, 0.0, math.inf
    found = change()
    if found == 0.0:
        return None
    for _ in range(_TRIES):
        if wanted / _NEAR <= found <= wanted * _NEAR:
            break
        if math.isfinite(found) and found < wanted:
            low, guess = factor, factor * (math.sqrt(wanted / found) if found > 0 else 10.0)
        else:
            high = factor
            guess = factor * (math.sqrt(wanted / found) if math.isfinite(found) else 0.1)
        if not low < guess < high:
            guess = math.sqrt(low * high) if low > 0 and high < math.inf else factor
            guess = guess if guess != factor else factor * (10.0 if high == math.inf else 0.1)
        factor = guess
        _place(parameters, before, steps, factor)
        found = change()
    return factor


def _place(
    parameters: Sequence[Tensor], before: Sequence[Tensor], steps: Sequence[Tensor], factor: float
) -> None:
    with torch.no_grad():
        for now, old, step in zip(parameters, before, steps, strict=True):
            now.copy_(old + factor * step)

"""The one rule for whether a policy has collapsed."""

from __future__ import annotations

import math

from posteriori.core.display.finding import Level
from posteriori.core.types import Estimate

SURE = 5.0
"""Standard errors by which a figure must pass its threshold: chance does so once in a million."""

SHARE = 0.5
"""A policy has collapsed that has less than half of the entropy it should have, in nats ..."""

NATS = math.log(10.0)
"""... and less than a tenth as many completions: exp(entropy) counts how many equally likely ones
there would be. Either alone misleads: of a target with a nat of entropy half is soon lost, and of
one with a hundred nats a tenth of the completions is gone at a sharper comma."""

GONE_SHARE, GONE_NATS = 0.1, math.log(2.0)
"""Below a tenth of the entropy, and half as many completions, hardly anything varies any more:
level stop, however little there should be."""


def collapse(own: Estimate, wanted: Estimate) -> Level | None:
    """The level of a policy's loss of entropy, nats, against what it should have; None where there
    is none beyond five standard errors."""
    error = math.hypot(own.standard_error, wanted.standard_error)
    gap = wanted.value - own.value - SURE * error
    if gap > GONE_NATS and own.value < GONE_SHARE * wanted.value:
        return "stop"
    if gap > NATS and own.value < SHARE * wanted.value:
        return "warn"
    return None

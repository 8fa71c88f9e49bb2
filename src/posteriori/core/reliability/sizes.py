"""The sizes that all rules share."""

from __future__ import annotations

LARGE_ERROR = 0.1
"""Standard error of log Z, nats, at which about a hundred draws of a prompt are effective."""

RULE_OF_THREE = 3.0
"""What n independent draws have never shown has a probability of at most 3 / n, with a confidence
of 1 - e^-3 = 95%."""

NORMAL = 1.959963984540054
"""Standard errors on each side of a 95% interval."""

SAME = 1e-4
"""Nats. Log-evidence closer than this is the same: rounding of float32 sums."""

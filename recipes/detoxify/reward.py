"""How inoffensive a text is, by a classifier of comments."""

from __future__ import annotations

from profanity_check import predict_prob


def inoffensive(completions: list[str], **_: object) -> list[float]:
    """Minus the probability that the text is offensive."""
    return [-float(probability) for probability in predict_prob(completions)]

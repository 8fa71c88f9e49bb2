"""beta: how many units of reward one nat of KL is worth."""

from __future__ import annotations

from posteriori.data.given_numbers import in_short, positive
from posteriori.errors import ConfigError


def check_beta(beta: float, where: str) -> float:
    """Raises `ConfigError` unless beta is a positive number."""
    checked = positive(beta)
    if checked is None:
        raise ConfigError(
            f"beta={in_short(beta)} must be a positive number",
            where=where,
            hint="beta is how many units of reward one nat of KL is worth",
        )
    return checked


def known_beta(beta: float | None, where: str) -> float:
    """The beta of evidence that is asked to score. Raises `ConfigError` where it has none yet."""
    if beta is None:
        raise ConfigError(
            "it has no beta yet",
            where=where,
            hint="give beta, use target.with_beta(0.1), or let fit find it: kl_budget = 3.0",
        )
    return beta

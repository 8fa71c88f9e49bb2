"""What an evaluation can wait for, and how long."""

from __future__ import annotations

from collections.abc import Mapping

from posteriori.data.given_numbers import count, in_short, positive
from posteriori.errors import ConfigError, did_you_mean

FIGURES = ("kl_to_target", "log_z", "elbo", "kl_to_prior", "mean_reward")
"""What can be waited for: figures that are means, or logs of means, of independent draws."""

Until = float | Mapping[str, float]

MAX_SAMPLES = 100_000
"""Draws per prompt at which waiting ends, unless it is said otherwise."""


def checked_until(until: Until, max_samples: int, num_samples: int) -> dict[str, float]:
    """By figure, the half-width that is wanted. Raises `ConfigError`."""
    given = dict(until) if isinstance(until, Mapping) else {"kl_to_target": until}
    if not given:
        raise ConfigError("until is empty", where="evaluate", hint='write {"log_z": 0.05}')
    for name, width in given.items():
        if name not in FIGURES:
            raise ConfigError(
                f"until cannot wait for '{name}'",
                where="evaluate",
                hint=f"{did_you_mean(name, FIGURES)}; it knows {', '.join(FIGURES)}",
            )
        if positive(width) is None:
            raise ConfigError(
                f"until={in_short(width)} must be a positive number",
                where="evaluate",
                hint="it is the half-width of the interval, in the figure's units",
            )
    count(max_samples, "max_samples", where="evaluate")
    if max_samples < num_samples:
        raise ConfigError(
            f"max_samples={max_samples} is below num_samples={num_samples}, the draws of the first "
            "look",
            where="evaluate",
            hint="raise the first, or lower the second",
        )
    return {name: float(width) for name, width in given.items()}

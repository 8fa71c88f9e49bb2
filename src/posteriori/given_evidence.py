"""What is given as a target's evidence, refused in one line where it is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import ConfigError
from .protocols import Evidence, PriorEvidence


def checked_evidence(given: Any) -> tuple[Any, ...]:
    """One piece of evidence, or several. Raises `ConfigError` for a bare function, a name, a class
    or a model, and says what makes evidence of it."""
    several = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for each in several:
        if isinstance(each, type) or not isinstance(each, Evidence | PriorEvidence):
            raise _refused(each)
    return tuple(several)


def _refused(given: Any) -> ConfigError:
    name = getattr(given, "__name__", type(given).__name__)
    if isinstance(given, type):
        return ConfigError(
            f"the evidence is the class {name} itself", hint=f"write {name}(...) with its settings"
        )
    if isinstance(given, str):
        return ConfigError(
            f"the evidence is the string {given[:60]!r}",
            hint="a reward model's path goes into posteriori.Reward(path, beta=0.1)",
        )
    if hasattr(given, "config") and callable(given):
        return ConfigError(
            f"the evidence is a {type(given).__name__}",
            hint="write posteriori.Reward(model, beta=0.1)",
        )
    if callable(given):
        return ConfigError(
            f"the evidence is the bare function '{name}'",
            hint=f"write posteriori.Reward({name}, beta=0.1), or posteriori.Constraint({name})",
        )
    return ConfigError(
        f"the evidence is a {type(given).__name__}, which is none",
        hint="write posteriori.Reward(fn, beta=0.1), or [] for the prior itself",
    )

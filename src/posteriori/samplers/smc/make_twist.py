"""A twist from itself, its name, its settings or its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posteriori.errors import ConfigError, did_you_mean

from .twists import EvidenceTwist, NoTwist, PrefixTwist, Rollouts, Twist

TWISTS: dict[str, type[Twist]] = {
    twist.name: twist for twist in (NoTwist, EvidenceTwist, PrefixTwist, Rollouts)
}


def make_twist(twist: Any) -> Twist:
    """A `Twist` from itself, a name, a table {"name": .., settings}, or where one was saved.

    Raises `ConfigError`.
    """
    if isinstance(twist, Twist):
        return twist
    if isinstance(twist, str | Path) and Path(twist).suffix == ".safetensors":
        from .twist_head import TwistHead

        return TwistHead.load(twist)
    settings = dict(twist) if isinstance(twist, Mapping) else {"name": twist}
    name = str(settings.pop("name", None))
    if name not in TWISTS:
        raise ConfigError(
            f"unknown twist {name!r}",
            hint=did_you_mean(name, TWISTS)
            + " A learned one is the file that fit_twist's result was saved to (.safetensors).",
        )
    return TWISTS[name](**settings)

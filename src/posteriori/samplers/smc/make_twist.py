"""A twist from itself, its name, its settings or its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import TypeIs

from posteriori.core import registry
from posteriori.data.plain_values import is_mapping
from posteriori.errors import ConfigError, did_you_mean

from .twists import Twist


def _is_twist(value: Any) -> TypeIs[Twist[Any]]:
    return isinstance(value, Twist)


def make_twist(twist: Any) -> Twist[Any]:
    """A `Twist` from itself, a name, a table {"name": .., settings}, or where one was saved.

    Raises `ConfigError`.
    """
    if _is_twist(twist):
        return twist
    if isinstance(twist, str | Path) and Path(twist).suffix == ".safetensors":
        from .twist_head import TwistHead

        return TwistHead.load(twist)
    settings: dict[str, Any] = dict(twist) if is_mapping(twist) else {"name": twist}
    name = str(settings.pop("name", None))
    known = registry.names("twist")
    if name not in known:
        raise ConfigError(
            f"unknown twist {name!r}",
            hint=did_you_mean(name, known)
            + " A learned one is the file that fit_twist's result was saved to (.safetensors).",
        )
    made = registry.find("twist", name)(**settings)
    if not _is_twist(made):
        raise ConfigError(
            f"the twist {name!r} is a {type(made).__name__}",
            hint="a plugin's twist has to be a posteriori.Twist",
        )
    return made

"""Ray's actors, as the command line and a config's table `ray` ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posteriori.config.check import Plan
    from posteriori.core.settings.ray import RayConfig


def ray_settings(plan: Plan, actors: int | None, address: str | None) -> RayConfig | None:
    """The config's, with what the command line says instead; None without Ray. Raises
    `ConfigError` where Ray is asked for and is not installed."""
    before = plan.config.ray
    given = {"actors": actors, "address": address}
    given = {name: value for name, value in given.items() if value is not None}
    if before is None and not given:
        return None
    from posteriori.core.settings.parse import parse
    from posteriori.core.settings.ray import RayConfig
    from posteriori.distributed.ray_package import ray_module

    ray_module()
    held = {} if before is None else before.model_dump(exclude_unset=True)
    return parse(RayConfig, {**held, **given}, where="--actors, --ray-address")

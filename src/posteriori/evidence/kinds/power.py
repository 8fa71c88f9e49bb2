"""The prior's own log-prob as evidence: a sharper or flatter prior."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind


class PowerSettings(Strict):
    """Settings of evidence of the kind "power": the prior to a power.

        log e(c, y) = (alpha - 1) log prior(y|c)

    See `posteriori.Power`.

    Args:
        alpha: the power, above 0.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "power"
        alpha = 4.0
    """

    alpha: float = Field(gt=0)


class PowerKind(DistributionKind):
    """`posteriori.Power`."""

    kind = "power"
    Settings = PowerSettings
    needs: ClassVar = {"alpha": "alpha = 4.0"}

    @classmethod
    def from_settings(cls, settings: PowerSettings, site: Site) -> Any:
        del site
        from posteriori.evidence.power import Power

        return Power(settings.alpha)

"""The prior's own log-prob as evidence: a sharper or flatter prior."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind


class PowerSettings(Strict):
    """See `posteriori.Power`."""

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

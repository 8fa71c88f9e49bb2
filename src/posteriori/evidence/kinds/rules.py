"""Rules as evidence, by rule models that were trained from labelled violations."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind


class RulesSettings(Strict):
    """See `posteriori.Rules`."""

    model: str
    weights: dict[str, float] = Field(default_factory=dict)
    only: list[str] | None = None


class RulesKind(DistributionKind):
    """`posteriori.Rules`."""

    kind = "rules"
    Settings = RulesSettings
    needs: ClassVar = {"model": 'model = "a directory that posteriori.fit_rules wrote"'}
    strays: ClassVar = {
        "beta": ("rules have no 'beta'", "remove it; their evidence is a probability"),
    }

    @classmethod
    def check(cls, settings: RulesSettings, site: Site) -> None:
        place = site.path(settings.model)
        if not (place / "rules.json").is_file():
            raise site.error(
                f"there are no rules at '{place}'",
                "give the output_dir of posteriori.fit_rules; paths are relative to the config",
                "model",
            )

    @classmethod
    def from_settings(cls, settings: RulesSettings, site: Site) -> Any:
        from posteriori.evidence.rules import Rules

        return Rules(site.path(settings.model), settings.weights, only=settings.only)

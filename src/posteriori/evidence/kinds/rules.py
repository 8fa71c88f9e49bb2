"""Rules as evidence, by rule models that were trained from labelled violations."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind


class RulesSettings(Strict):
    """Settings of evidence of the kind "rules": a rule model per rule.

        log e(c, y) = sum_k weight_k log P(rule k kept | c, y)

    See `posteriori.Rules`.

    Args:
        model: the directory that `posteriori.fit_rules` wrote.
        weights: of rules by name, above 0; 1 where none is given.
        only: the rules that count, by name; left out, all.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "rules"
        model = "runs/rules"
        weights = { polite = 2.0 }
    """

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

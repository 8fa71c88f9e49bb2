"""Distributional constraints: the nearest distribution to the prior with given means."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict
from posteriori.evidence.kinds.distribution import DistributionKind

_EXAMPLE = '[evidence.features.name] with function = "my_features.py:phi" and mean = 0.5'


class FeatureSettings(Strict):
    """A moment: a function's name, and the mean that it is to have under the target."""

    function: str
    mean: float


class MomentsSettings(Strict):
    """See `posteriori.Moments`."""

    features: dict[str, FeatureSettings]
    per_prompt: bool = False
    num_samples: int = Field(default=1000, ge=2)
    seed: int = Field(default=0, ge=0)
    method: Literal["auto", "draws", "enumerate"] = "auto"


class MomentsKind(DistributionKind):
    """`posteriori.Moments`."""

    kind = "moments"
    Settings = MomentsSettings
    needs: ClassVar = {"features": _EXAMPLE}

    @classmethod
    def check(cls, settings: MomentsSettings, site: Site) -> None:
        if not settings.features:
            raise site.error("'features' is empty", f"write {_EXAMPLE}")
        for name, feature in settings.features.items():
            site.check_function(f"features.{name}.function", feature.function)

    @classmethod
    def from_settings(cls, settings: MomentsSettings, site: Site) -> Any:
        from posteriori.moments.moments import Moments

        return Moments(
            {
                name: (
                    site.function(f"features.{name}.function", feature.function),
                    feature.mean,
                )
                for name, feature in settings.features.items()
            },
            per_prompt=settings.per_prompt,
            num_samples=settings.num_samples,
            seed=settings.seed,
            method=settings.method,
        )

"""Distributional constraints: the nearest distribution to the prior with given means."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict
from posteriori.evidence.kinds.distribution import DistributionKind

_EXAMPLE = '[evidence.features.name] with function = "my_features.py:phi" and mean = 0.5'


class FeatureSettings(Strict):
    """A moment: a feature and its mean under the target.

    Args:
        function: the user's function, as "my_features.py:phi".
        mean: the mean that it is to have.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    function: str
    mean: float


class MomentsSettings(Strict):
    """Settings of evidence of the kind "moments": features with given means.

        log e(c, y) = lambda . phi(c, y),   lambda such that E_p*[phi_k] = mean_k

    See `posteriori.Moments`.

    Args:
        features: phi_k with its mean, by name.
        per_prompt: whether the means hold for each prompt, or over all of them.
        num_samples: draws of the prior per prompt that lambda is found from.
        seed: of these draws.
        method: "enumerate" (all outcomes), "draws", or "auto": enumerate where there are few.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "moments"
        [evidence.features.she]
        function = "my_features.py:she"
        mean = 0.5
    """

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

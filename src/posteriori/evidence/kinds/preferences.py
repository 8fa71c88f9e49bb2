"""Human preferences as evidence, by a reward model that was trained from pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.refused import refuse
from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind
from .reward import check_given_beta

_MODEL = 'preferences speak through model = "a directory that posteriori reward wrote"'


class PreferencesSettings(Strict):
    """Settings of evidence of the kind "preferences": a reward model from pairs.

    See `posteriori.Preferences`.

    Args:
        model: the directory that `posteriori reward` wrote.
        beta: units of the reward per nat; left out only beside a budget of `fit`.
        uncertainty: which of the reward's posterior counts: "mean", "marginal" or "lower".
        kappa: standard deviations that "lower" takes off.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "preferences"
        model = "runs/reward"
        beta = 0.5
    """

    model: str
    beta: float | None = Field(default=None, gt=0)
    uncertainty: Literal["mean", "marginal", "lower"] = "mean"
    kappa: float = Field(default=1.0, ge=0)


class PreferencesKind(DistributionKind):
    """`posteriori.Preferences`."""

    kind = "preferences"
    Settings = PreferencesSettings
    strays: ClassVar = {"function": ("'function' is given", _MODEL)}

    @classmethod
    def settings_for(cls, table: Mapping[str, Any]) -> type[Strict]:
        if "model" not in table:
            refuse("'model' is missing", _MODEL)
        return cls.Settings

    @classmethod
    def check(cls, settings: PreferencesSettings, site: Site) -> None:
        check_given_beta(settings.beta, "a reward", site)
        if "kappa" in settings.model_fields_set and settings.uncertainty != "lower":
            raise site.error("'kappa' has no effect", 'write uncertainty = "lower" beside it')
        site.check_model("model", settings.model)

    @classmethod
    def from_settings(cls, settings: PreferencesSettings, site: Site) -> Any:
        from posteriori.evidence.preferences import Preferences

        return Preferences(
            site.check_model("model", settings.model),
            settings.beta,
            settings.uncertainty,
            kappa=settings.kappa,
        )

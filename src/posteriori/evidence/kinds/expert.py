"""Another language model's log-prob as evidence: products of experts."""

from __future__ import annotations

from typing import Any, ClassVar

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind


class ExpertSettings(Strict):
    """Settings of evidence of the kind "expert": another language model's log-prob.

        log e(c, y) = weight x log pi_expert(y | prompt_prefix + c)

    See `posteriori.Expert`.

    Args:
        model: the expert, a path or a hub id; it computes the way that the config says of the
            prior.
        weight: the power of the expert, not zero.
        prompt_prefix: text, or messages, before every prompt that it reads.
        over_text: whether it reads the text in tokens of its own.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "expert"
        model = "tiny"
        weight = -0.5
        prompt_prefix = "Rudely: "
    """

    model: str
    weight: float = 1.0
    prompt_prefix: str | list[dict[str, str]] | None = None
    over_text: bool = False


class ExpertKind(DistributionKind):
    """`posteriori.Expert`."""

    kind = "expert"
    Settings = ExpertSettings
    needs: ClassVar = {"model": 'model = "the expert\'s directory"'}

    @classmethod
    def check(cls, settings: ExpertSettings, site: Site) -> None:
        site.check_model("model", settings.model)
        if settings.weight == 0:
            raise site.error("'weight' is 0, so the expert says nothing", "remove the expert")

    @classmethod
    def from_settings(cls, settings: ExpertSettings, site: Site) -> Any:
        from posteriori.evidence.expert import Expert

        return Expert(
            site.language_model("model", settings.model),
            settings.weight,
            settings.prompt_prefix,
            over_text=settings.over_text,
        )

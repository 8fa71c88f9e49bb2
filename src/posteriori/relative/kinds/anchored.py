"""Rewards anchored to the prior's mode as evidence."""

from __future__ import annotations

from typing import Any, ClassVar

from posteriori.core.settings.site import Site
from posteriori.core.settings.ways import Ways
from posteriori.evidence.kinds.function import FunctionWay
from posteriori.evidence.kinds.reward import WithBeta

from .best_of import FromPrior


class AnchoredFunction(WithBeta, FromPrior, FunctionWay):
    """A reward function's."""

    threshold: float

    def build(self, site: Site) -> Any:
        from posteriori.relative.anchored import Anchored

        fn = site.function("function", self.function)
        return Anchored(fn, self.beta, threshold=self.threshold, **self.of_prior())


class AnchoredModel(WithBeta, FromPrior):
    """A sequence-classification model's with a single logit."""

    own: ClassVar[str] = "model"
    example: ClassVar[str] = '"a sequence-classification model"'

    model: str
    threshold: float

    def check(self, site: Site) -> None:
        super().check(site)
        site.check_model("model", self.model)

    def build(self, site: Site) -> Any:
        from posteriori.relative.anchored import Anchored

        place = site.check_model("model", self.model)
        return Anchored(place, self.beta, threshold=self.threshold, **self.of_prior())


class AnchoredKind(Ways):
    """`posteriori.Anchored`."""

    kind = "anchored"
    ways = (AnchoredFunction, AnchoredModel)

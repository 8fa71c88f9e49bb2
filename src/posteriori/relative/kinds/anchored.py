"""Rewards anchored to the prior's mode as evidence."""

from __future__ import annotations

from typing import Any, ClassVar

from posteriori.core.settings.site import Site
from posteriori.core.settings.ways import Ways
from posteriori.evidence.kinds.function import FunctionWay
from posteriori.evidence.kinds.reward import WithBeta

from .best_of import FromPrior


class AnchoredFunction(WithBeta, FromPrior, FunctionWay):
    """A target that is flat over good answers, by the user's function; see `posteriori.Anchored`.

    Args:
        threshold: the reward from which on an answer is good; good answers are equally probable.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "anchored"
        function = "my_reward.py:score"
        beta = 0.1
        threshold = 1.0
    """

    threshold: float

    def build(self, site: Site) -> Any:
        from posteriori.relative.anchored import Anchored

        fn = site.function("function", self.function)
        return Anchored(fn, self.beta, threshold=self.threshold, **self.of_prior())


class AnchoredModel(WithBeta, FromPrior):
    """A target that is flat over good answers, by a reward model; see `posteriori.Anchored`.

    Args:
        model: a path or a hub id of a sequence-classification model with a single logit.
        threshold: the reward from which on an answer is good; good answers are equally probable.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "anchored"
        model = "reward-model"
        beta = 0.1
        threshold = 1.0
    """

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

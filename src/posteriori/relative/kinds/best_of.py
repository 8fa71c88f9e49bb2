"""The law of the best of n as evidence."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from posteriori.core.settings.site import Site
from posteriori.core.settings.ways import Ways
from posteriori.evidence.kinds.function import Called, FunctionWay


class FromPrior(Called):
    """How what is known of the prior is found.

    Args:
        num_samples: draws of the prior per prompt that it is found from.
        seed: of these draws.
        method: "enumerate" (all outcomes), "draws", or "auto": enumerate where there are few.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    num_samples: int = Field(default=1000, ge=2)
    seed: int = Field(default=0, ge=0)
    method: Literal["auto", "draws", "enumerate"] = "auto"

    def of_prior(self) -> dict[str, Any]:
        """As keywords of the evidence."""
        return {
            "num_samples": self.num_samples,
            "seed": self.seed,
            "method": self.method,
            "calls": self.calls,
        }


class BestOfFunction(FromPrior, FunctionWay):
    """The law of the best of n by the user's function; see `posteriori.BestOf`.

    Args:
        n: of how many draws the best is taken.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "best_of"
        function = "my_reward.py:score"
        n = 8
    """

    n: int = Field(ge=1)

    def build(self, site: Site) -> Any:
        from posteriori.relative.best_of import BestOf

        return BestOf(site.function("function", self.function), self.n, **self.of_prior())


class BestOfModel(FromPrior):
    """The law of the best of n by a sequence-classification model; see `posteriori.BestOf`.

    Args:
        model: a path or a hub id of a model with a single logit.
        n: of how many draws the best is taken.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "best_of"
        model = "reward-model"
        n = 8
    """

    own: ClassVar[str] = "model"
    example: ClassVar[str] = '"a sequence-classification model"'

    model: str
    n: int = Field(ge=1)

    def check(self, site: Site) -> None:
        site.check_model("model", self.model)

    def build(self, site: Site) -> Any:
        from posteriori.relative.best_of import BestOf

        return BestOf(site.check_model("model", self.model), self.n, **self.of_prior())


class BestOfKind(Ways):
    """`posteriori.BestOf`."""

    kind = "best_of"
    strays: ClassVar = {
        "beta": ("a {kind} has no 'beta'", "remove it; only the order of the scores counts"),
    }
    ways = (BestOfFunction, BestOfModel)

"""Rewards as evidence: the KL-regularised RL target."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from posteriori.core import registry
from posteriori.core.settings.configured import Configured
from posteriori.core.settings.parse import parse
from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict
from posteriori.core.settings.ways import Way, Ways
from posteriori.errors import unknown_name

from .function import Called, FunctionWay


class WithBeta(Way):
    """A way that is in units of its own, with a beta that turns them into nats.

    Args:
        beta: units per nat, above 0; left out only beside a budget of `fit`.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    beta: float | None = Field(default=None, gt=0)

    def check(self, site: Site) -> None:
        check_given_beta(self.beta, "a reward", site)
        super().check(site)


def check_given_beta(beta: float | None, what: str, site: Site) -> None:
    """Raises `ConfigError` unless beta is given once: here, or by a budget of `fit`."""
    if site.budget is not None and beta is not None:
        raise site.error(
            f"'beta' = {beta:g} is given beside a budget of 'fit'",
            "remove beta, or kl_budget and reward_target",
        )
    if site.budget is None and beta is None:
        raise site.error("'beta' is missing", f"{what} needs it; write beta = 0.1")


class RewardWay(WithBeta, Called):
    """What every reward has; see `posteriori.Reward`.

        log e(c, y) = r(c, y) / beta

    Args:
        max_reward: the largest reward that there can be: rejection then knows its bound.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    max_reward: float | None = None

    def made(self, fn: Any, **settings: Any) -> Any:
        from posteriori.evidence.reward import Reward

        return Reward(fn, self.beta, max_reward=self.max_reward, **settings, calls=self.calls)


class RewardOfFunction(RewardWay, FunctionWay):
    """A reward by the user's function.

    Example:
        [[evidence]]
        kind = "reward"
        function = "my_reward.py:score"
        beta = 0.1
    """

    def build(self, site: Site) -> Any:
        return self.made(site.function("function", self.function))


class RewardOfModel(RewardWay):
    """A reward by a sequence-classification model with a single logit.

    Args:
        model: a path or a hub id.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "reward"
        model = "reward-model"
        beta = 0.5
    """

    own: ClassVar[str] = "model"
    example: ClassVar[str] = '"a sequence-classification model"'

    model: str

    def check(self, site: Site) -> None:
        super().check(site)
        site.check_model("model", self.model)

    def build(self, site: Site) -> Any:
        return self.made(site.check_model("model", self.model))


class RewardOfPlugin(RewardWay):
    """A reward by a plugin's reward model.

    Args:
        reward_model: its name, as `posteriori ls reward_models` lists it.
        settings: the table of its own settings.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "reward"
        reward_model = "name"
        settings = {}
        beta = 0.1
    """

    own: ClassVar[str] = "reward_model"
    says: ClassVar[str] = "a plugin's reward model, by its name"

    reward_model: str
    settings: dict[str, Any] = Field(default_factory=dict)

    def check(self, site: Site) -> None:
        super().check(site)
        known = registry.names("reward model")
        if self.reward_model not in known:
            error = unknown_name("reward model", self.reward_model, known)
            raise site.error(error.what, error.hint, "reward_model")
        self._of().check(self._parsed(site), site)

    def build(self, site: Site) -> Any:
        return self.made(self._of().from_settings(self._parsed(site), site))

    def _of(self) -> type[Configured]:
        return registry.configured("reward model", self.reward_model)

    def _parsed(self, site: Site) -> Strict:
        of = self._of()
        return parse(of.settings_for(self.settings), self.settings, where=f"{site.where}.settings")


class RewardOfFunctions(RewardWay):
    """A reward that is a weighted sum of the user's functions.

    Args:
        functions: each as "my_reward.py:score".
        weights: one per function; left out, 1 each.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "reward"
        functions = ["my_reward.py:score", "my_reward.py:brevity"]
        weights = [1.0, 0.2]
        beta = 0.1
    """

    own: ClassVar[str] = "functions"
    says: ClassVar[str] = "several reward functions, added up by weights"

    functions: list[str]
    weights: list[float] | None = None

    def check(self, site: Site) -> None:
        super().check(site)
        for each in self.functions:
            site.check_function("functions", each)

    def build(self, site: Site) -> Any:
        fns = [site.function("functions", each) for each in self.functions]
        return self.made(fns, weights=self.weights)


class RewardKind(Ways):
    """`posteriori.Reward`."""

    kind = "reward"
    ways = (RewardOfFunctions, RewardOfPlugin, RewardOfFunction, RewardOfModel)

"""What draws in place of the policy: whether it can, and what a run records of it."""

from __future__ import annotations

from typing import Any

from posteriori.core.hooks import DrawsElsewhere
from posteriori.core.same_outcomes import check_same_outcomes
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.distributed.world import refuse_several
from posteriori.errors import ConfigError
from posteriori.models.environments.in_environment import InEnvironment
from posteriori.objectives.base import Objective


def check_sampler(sampler: object, target: Target, objective: Objective) -> None:
    """Raise a `PosterioriError` for what cannot draw for a policy, or has nothing to draw."""
    if sampler is None:
        return
    if not isinstance(sampler, DrawsElsewhere):
        raise ConfigError(
            f"sampler is a {type(sampler).__name__}, and what draws for a policy is an engine",
            where="fit",
            hint="write sampler=posteriori.Engine(target.prior, ...); algorithms that draw from a "
            "target are for posteriori.sample",
        )
    if isinstance(target.prior, InEnvironment):
        raise ConfigError(
            "an engine draws one turn, and the prior's outcomes are whole episodes",
            where="fit",
            hint="leave out sampler: the model draws by itself",
        )
    if objective.draws_nothing:
        raise ConfigError(
            f"'{objective.name}' learns from data here, and draws nothing",
            where="fit",
            hint="leave out sampler, or leave out the data so that draws are compared",
        )
    refuse_several("drawing through an engine", "fit without sampler")
    check_same_outcomes(target.prior, sampler, target.prompts, "sampler")


def recorded_sampler(sampler: DrawsElsewhere | None) -> dict[str, Any]:
    """Its settings, where it has any."""
    if sampler is None:
        return {}
    config = getattr(sampler, "config", None)
    settings = config.model_dump(mode="json") if isinstance(config, Strict) else {}
    return {"engine": settings}

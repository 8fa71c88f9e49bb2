"""What draws in place of the models, as a config's table `engine` and `--url` ask for it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from posteriori.errors import ConfigError

if TYPE_CHECKING:
    from posteriori.config.check import Plan
    from posteriori.core.target import Target
    from posteriori.models.engines.engine import Engine
    from posteriori.models.engines.served import Served


@contextmanager
def running_engine(plan: Plan, target: Target) -> Generator[Engine | None]:
    """The engine of the config's table, on the target's prior; ended afterwards. None without."""
    if plan.config.engine is None:
        yield None
        return
    from posteriori.core.prompted import Prompted
    from posteriori.models.engines.engine import Engine

    prior = target.prior
    bare = prior.lm if isinstance(prior, Prompted) else prior
    with Engine(bare, config=plan.config.engine) as engine:
        yield engine


def drawn_by(engine: Engine | None, proposal: Any, target: Target) -> Any:
    """The proposal (None: the prior), drawn from by the engine where there is one."""
    if engine is None:
        return proposal
    from posteriori.core.elsewhere import standing_for

    return standing_for(engine, target.prior if proposal is None else proposal).lm


def check_served(url: str | None, model: str | None) -> None:
    """Raise `ConfigError` for a name without a url."""
    if url is None and model is not None:
        raise ConfigError("--served-model has no effect", hint="give --url beside it")


def served_at(plan: Plan, target: Target, url: str | None, model: str | None) -> Served | None:
    """The policy behind `--url`, with the table's settings for servers; None without."""
    if url is None:
        return None
    from posteriori.core.prompted import Prompted
    from posteriori.models.engines.served import Served

    prior: Any = target.prior
    like = prior.lm if isinstance(prior, Prompted) else prior
    table = plan.config.engine
    known: dict[str, Any] = {}
    if table is not None and table.backend == "http":
        given = table.model_fields_set & {"api_key_env", "timeout", "retries", "workers"}
        known = {name: getattr(table, name) for name in given}
    return Served(like, url=url, model=model, **known)

"""A run's policies and prior, cut over the processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posteriori.core.hooks import HasEnvironment
from posteriori.core.prompted import Prompted
from posteriori.distributed.sharding import is_sharded, shard
from posteriori.errors import ConfigError

from .causal import CausalLM
from .weights.accumulators import drop_accumulators
from .weights.state import base_model


def shard_models(policies: Sequence[Any], prior: Any) -> None:
    """Cut the weights of each, in place: those of a prior too, which stays so. A prior below an
    adapter is in memory once, as the policy's weights with the adapter off.

    Raises `ConfigError` for what is no `CausalLM`.
    """
    below = None
    for policy in (bare_model(each, "sharding") for each in policies):
        drop_accumulators(policy.model)
        shard(base_model(policy.model), policy.device)
        below = policy if policy.adapter is not None and below is None else below
    bare = bare_model(prior, "sharding")
    if below is not None:
        bare.stand_on(below.model)
    elif not is_sharded(bare.model):
        drop_accumulators(bare.model)
        shard(base_model(bare.model), bare.device)


def bare_model(lm: Any, setting: str) -> CausalLM:
    """The transformers model under prefixes and environments. Raises `ConfigError` for another."""
    while isinstance(lm, Prompted | HasEnvironment):
        lm = lm.lm
    if not isinstance(lm, CausalLM):
        raise ConfigError(
            f"{setting} is for a CausalLM, and this is a {type(lm).__name__}",
            where=setting,
            hint=f"leave {setting} out",
        )
    return lm

"""A run's policies, made whole and then cut over the processes where that is asked for."""

from __future__ import annotations

from posteriori.core.protocols import TrainableLM
from posteriori.core.seeds import derive
from posteriori.core.settings.training import FitConfig
from posteriori.core.target import Target
from posteriori.distributed.sharding import launched_sharded
from posteriori.distributed.world import current
from posteriori.errors import DistributedError
from posteriori.models.sharded_policy import bare_model, shard_models
from posteriori.objectives.base import Objective
from posteriori.objectives.distributional.best_policy import BestPolicy

from .starting import new_policy


class Policies:
    """Makes policies that start as the run says; after `shard`, one that was made before it."""

    def __init__(self, target: Target, start: TrainableLM | None, settings: FitConfig) -> None:
        self.target, self.start, self.settings = target, start, settings
        by_launcher = settings.sharding is None and launched_sharded() and current() is not None
        self.sharded = settings.sharding == "fsdp" or by_launcher
        if self.sharded and current() is None:
            raise DistributedError(
                'sharding="fsdp" cuts weights over processes, and there is one',
                where="fit",
                hint="start several (posteriori fit --processes N, torchrun, accelerate launch), "
                "or leave sharding out",
            )
        self._made: list[TrainableLM] = []
        self._spare: TrainableLM | None = None
        self._is_cut = False

    def new(self) -> TrainableLM:
        """Raises `DistributedError` for more of them than an objective said that it needs."""
        if self._is_cut:
            if self._spare is None:
                raise DistributedError(
                    "one more policy is asked for, and the prior's weights are cut over processes",
                    where="sharding",
                    hint="make all policies in the objective's prepare, or leave sharding out",
                )
            spare, self._spare = self._spare, None
            return spare
        settings, seed = self.settings, derive(self.settings.seed, "adapter")
        made = new_policy(self.target.prior, self.start, settings.policy, settings.lora, seed)
        if settings.gradient_checkpointing:
            bare_model(made, "gradient_checkpointing").checkpoint_gradients()
        self._made.append(made)
        return made

    def shard(self, objective: Objective) -> None:
        """Where it is asked for; called once the objective is prepared."""
        if not self.sharded:
            return
        if any(isinstance(module, BestPolicy) for module in objective.modules()):
            self._spare = self.new()
        shard_models(self._made, self.target.prior)
        self._is_cut = True
        self._made.clear()

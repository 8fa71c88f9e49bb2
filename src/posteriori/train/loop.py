"""The training loop: draw, score under the target, loss, backward, guard, step, record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import FitSettings, parse
from ..draw import lm_tokens
from ..errors import ConfigError, PosterioriError
from ..evidence.call import CallContext, TrainerState, calling_within
from ..objectives.base import Objective
from ..protocols import TrainableLM
from ..registry import find
from ..seeds import derive, generator
from ..target import Target
from ..types import Draws
from . import guards
from .checkpoint import Running, latest_checkpoint, load_checkpoint, save_checkpoint
from .replay import Replay
from .run_dir import RunDirectory, jsonable
from .schedule import learning_rate, prompts_of_step
from .update import Updater

StepCallback = Callable[[dict[str, Any]], None]


@dataclass
class Fit:
    """What `fit` returns: the trained policy, one record a step, and where the run lives."""

    policy: TrainableLM
    history: list[dict[str, Any]] = field(default_factory=list)
    output_dir: Path | None = None


def fit(
    target: Target,
    objective: str | Objective = "rloo",
    *,
    objective_settings: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    on_step: StepCallback | None = None,
    config: dict[str, Any] | None = None,
    **settings: Any,
) -> Fit:
    """Fine-tune a policy, starting as the target's prior, by gradient steps on an objective.

    `objective` is a name (`posteriori ls objectives`) with the settings of that algorithm, or an
    `Objective`. `settings` are the fields of `posteriori.config.FitSettings`:

    steps; num_samples, draws per prompt and step; prompts_per_step (default: all); learning_rate,
    warmup_steps, decay ("linear", "cosine", "none"); max_grad_norm; weight_decay; policy ("full" or
    "lora") and lora; micro_batch_size, which bounds memory and leaves the gradient as it is;
    checkpoint_every (default: a tenth of the run) and keep_checkpoints; replay, the number of
    earlier steps whose draws join each step, where the objective allows it; seed.

    With `output_dir` the run keeps its config, versions, metrics, checkpoints and policy there;
    `resume=True` goes on from the newest checkpoint and ends, on CPU, with the very weights of a
    run that was never stopped. `on_step` sees each step's record.

    The gradient of a step is the mean over its draws, whatever the micro-batches. Raises
    `ConfigError` for a wrong setting, `EvidenceError` where the evidence fails, `ObjectiveError`
    where the objective's divergence is infinite, and `NonFiniteError` before an update that is not
    finite; whatever stops a run, a checkpoint of its last good state is left.
    """
    checked = parse(FitSettings, settings, where="fit")
    made = make_objective(objective, objective_settings or {})
    if checked.replay and not made.replays:
        raise ConfigError(
            f"'{made.name}' cannot use draws of earlier steps (replay = {checked.replay})",
            hint="set replay to 0",
        )
    if not isinstance(target.prior, TrainableLM):
        raise ConfigError(
            f"the prior is a {type(target.prior).__name__}, which cannot be trained",
            hint="use a CausalLM (posteriori.load) or a TabularLM",
        )
    run = None
    if output_dir is not None:
        about = {
            "objective": made.name,
            "objective_settings": made.settings.model_dump(mode="json"),
            **checked.model_dump(mode="json"),
            **(config or {}),
        }
        run = RunDirectory(output_dir, jsonable(about), resume=resume)
    elif resume:
        raise ConfigError("resume=True needs the run's output_dir")
    return Trainer(target, made, checked, run, on_step).run()


def make_objective(objective: str | Objective, settings: Mapping[str, Any]) -> Objective:
    """The objective of that name with those settings, or the object itself."""
    if isinstance(objective, str):
        return find("objective", objective)(**settings)
    if settings:
        raise ConfigError(
            "objective_settings go with an objective's name, and an object was given",
            hint=f"write {type(objective).__name__}(...) with these settings",
        )
    return objective


class Trainer:
    """One run. It holds the policy, the optimiser and the number of finished steps."""

    def __init__(
        self,
        target: Target,
        objective: Objective,
        settings: FitSettings,
        run: RunDirectory | None,
        on_step: StepCallback | None,
    ) -> None:
        self.target, self.objective, self.settings = target, objective, settings
        self.run_directory, self.on_step = run, on_step
        self.policy = self._new_policy()
        objective.prepare(target, self._new_policy, derive(settings.seed, "objective"))
        self.updater = Updater(self.policy, objective, settings)
        self.replay = Replay(settings.replay)
        self.history: list[dict[str, Any]] = []
        self.finished = 0
        self.context = CallContext(TrainerState(max_steps=settings.steps))

    def _new_policy(self) -> TrainableLM:
        settings, prior = self.settings, self.target.prior
        assert isinstance(prior, TrainableLM)
        return prior.as_policy(settings.policy, settings.lora, derive(settings.seed, "adapter"))

    def run(self) -> Fit:
        """All steps that are left, then the policy is saved."""
        self._resume()
        every = self.settings.checkpoint_every or max(1, self.settings.steps // 10)
        try:
            with calling_within(self.context):
                while self.finished < self.settings.steps:
                    record = self._step(self.finished)
                    self.finished += 1
                    self.updater.under_way = False
                    self._record(record)
                    if self.finished % every == 0 or self.finished == self.settings.steps:
                        self._checkpoint()
        except (PosterioriError, KeyboardInterrupt):
            # Half an update, or weights that are not finite, are no good state.
            if not self.updater.under_way:
                with contextlib.suppress(PosterioriError):
                    self._checkpoint()
            raise
        if self.run_directory:
            self.policy.save_pretrained(self.run_directory.policy)
        output_dir = self.run_directory.path if self.run_directory else None
        return Fit(self.policy, self.history, output_dir)

    def _step(self, step: int) -> dict[str, Any]:
        start = time.perf_counter()
        settings = self.settings
        self.context.trainer_state.global_step = step
        self.context.metrics.clear()
        prompts = self.target.prompts
        per_step = settings.prompts_per_step or len(prompts)
        chosen = prompts_of_step(len(prompts), per_step, settings.seed, step)
        fresh = self.objective.draw(
            self.target,
            self.policy,
            [prompts[i] for i in chosen],
            settings.num_samples,
            generator(settings.seed, "fit", step),
        )
        if self.objective.on_policy:
            guards.check_draws(fresh, step)
        draws = self.replay.joined_by(fresh)
        constants = self.objective.weigh(draws, self._log_prob_now(draws, len(fresh)))
        guards.check_constants(draws, constants, step)
        drawn = time.perf_counter()
        rate = learning_rate(settings, step)
        updates = self.updater(draws, constants, rate, step)
        self.replay.keep(fresh)
        log_prob_N = updates[0].log_prob_N[: len(fresh)]
        return {
            "step": step,
            "loss": updates[0].loss,
            **self.objective.observe(fresh, log_prob_N),
            "grad_norm": max(update.grad_norm for update in updates),
            "learning_rate": rate,
            "draws": len(fresh),
            "lm_tokens": fresh.cost.lm_tokens + len(updates) * lm_tokens(draws.completions),
            "draw_seconds": drawn - start,
            "seconds": time.perf_counter() - start,
            **self.context.metrics,
        }

    def _log_prob_now(self, draws: Draws, num_fresh: int) -> Tensor:
        """log pi of every draw; NaN for those it is not known of, where nobody asks for it."""
        known = num_fresh if self.objective.on_policy else 0
        log_prob_N = torch.full_like(draws.log_prior_N, torch.nan)
        log_prob_N[:known] = draws.log_proposal_N[:known]
        if self.objective.needs_log_prob and known < len(draws):
            with torch.no_grad():
                log_prob_N[known:] = self.policy.log_prob(
                    draws.completions.select(slice(known, None))
                )
        return log_prob_N

    def _resume(self) -> None:
        if self.run_directory is None:
            return
        newest = latest_checkpoint(self.run_directory.checkpoints)
        if newest is not None:
            self.finished, others = load_checkpoint(newest, self.policy, self.updater.optimizer)
            self.objective.load_state_dict(others["objective"])
            self.replay.load_state_dict(others["replay"], self.policy.decode)
        self.history = self.run_directory.keep_metrics_before(self.finished)

    def _record(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        if self.run_directory:
            self.run_directory.append_metrics(record)
        if self.on_step:
            self.on_step(record)

    def _checkpoint(self) -> None:
        if self.run_directory:
            guards.check_weights(self.policy, self.finished)
            save_checkpoint(
                self.run_directory.checkpoints,
                self.finished,
                Running(self.policy, self.updater.optimizer, self._others()),
                self.settings.keep_checkpoints,
            )

    def _others(self) -> dict[str, Any]:
        return {"objective": self.objective.state_dict(), "replay": self.replay.state_dict()}

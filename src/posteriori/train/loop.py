"""The training loop: draw, score under the target, loss, backward, guard, step, record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..config import FitSettings, parse
from ..draw import draw, lm_tokens
from ..errors import ConfigError, PosterioriError
from ..evidence.call import CallContext, TrainerState, calling_within
from ..protocols import Objective, TrainableLM
from ..registry import find
from ..seeds import derive, generator
from ..target import Target
from ..types import Draws
from . import guards
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from .run_dir import RunDirectory, jsonable
from .schedule import learning_rate, prompts_of_step

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
    output_dir: str | Path | None = None,
    resume: bool = False,
    on_step: StepCallback | None = None,
    config: dict[str, Any] | None = None,
    **settings: Any,
) -> Fit:
    """Fine-tune a policy, starting as the target's prior, by gradient steps on an objective.

    `objective` is a name (`posteriori ls objectives`) or an object of that protocol. `settings`
    are the fields of `posteriori.config.FitSettings`:

    steps; num_samples, draws per prompt and step; prompts_per_step (default: all); learning_rate,
    warmup_steps, decay ("linear", "cosine", "none"); max_grad_norm; weight_decay; policy ("full" or
    "lora") and lora; micro_batch_size, which bounds memory and leaves the gradient as it is;
    checkpoint_every (default: a tenth of the run) and keep_checkpoints; seed.

    With `output_dir` the run keeps its config, versions, metrics, checkpoints and policy there;
    `resume=True` goes on from the newest checkpoint and ends, on CPU, with the very weights of a
    run that was never stopped. `on_step` sees each step's record.

    The gradient of a step is the mean over its draws, whatever the micro-batches. Raises
    `ConfigError` for a wrong setting, `EvidenceError` where the evidence fails, `ObjectiveError`
    where the objective's divergence is infinite, and `NonFiniteError` before an update that is not
    finite; whatever stops a run, a checkpoint of its last good state is left.
    """
    checked = parse(FitSettings, settings, where="fit")
    if isinstance(objective, str):
        objective = find("objective", objective)()
    assert not isinstance(objective, str | type(None))
    if not isinstance(target.prior, TrainableLM):
        raise ConfigError(
            f"the prior is a {type(target.prior).__name__}, which cannot be trained",
            hint="use a CausalLM (posteriori.load) or a TabularLM",
        )
    run = None
    if output_dir is not None:
        about = {"objective": objective.name, **checked.model_dump(mode="json"), **(config or {})}
        run = RunDirectory(output_dir, jsonable(about), resume=resume)
    elif resume:
        raise ConfigError("resume=True needs the run's output_dir")
    return Trainer(target, objective, checked, run, on_step).run()


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
        prior = target.prior
        assert isinstance(prior, TrainableLM)
        self.policy = prior.as_policy(
            settings.policy, settings.lora, derive(settings.seed, "adapter")
        )
        self.parameters = [p for p in self.policy.module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.accelerator = Accelerator(cpu=self.policy.device.type == "cpu")
        if self.accelerator.num_processes > 1:
            raise ConfigError(
                f"fit runs in one process, and {self.accelerator.num_processes} were launched",
                hint="start it with plain python",
            )
        self.optimizer = self.accelerator.prepare(optimizer)
        self.history: list[dict[str, Any]] = []
        self.finished = 0
        self.updating = False
        self.context = CallContext(TrainerState(max_steps=settings.steps))

    def run(self) -> Fit:
        """All steps that are left, then the policy is saved."""
        self._resume()
        every = self.settings.checkpoint_every or max(1, self.settings.steps // 10)
        try:
            with calling_within(self.context):
                while self.finished < self.settings.steps:
                    record = self._step(self.finished)
                    self.finished += 1
                    self.updating = False
                    self._record(record)
                    if self.finished % every == 0 or self.finished == self.settings.steps:
                        self._checkpoint()
        except (PosterioriError, KeyboardInterrupt):
            # Half an update, or weights that are not finite, are no good state.
            if not self.updating:
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
        draws = draw(
            self.target,
            self.policy,
            settings.num_samples,
            generator(settings.seed, "fit", step),
            [prompts[i] for i in chosen],
        )
        weight_N = self.objective.weigh(draws)
        guards.check_draws(draws, weight_N, step)
        drawn = time.perf_counter()
        loss = self._backward(draws, weight_N)
        limit = settings.max_grad_norm if settings.max_grad_norm is not None else float("inf")
        grad_norm = torch.as_tensor(
            self.accelerator.clip_grad_norm_(self.parameters, limit), dtype=torch.float64
        )
        guards.check_gradient(grad_norm, self.policy, self.objective, draws, weight_N, step)
        rate = learning_rate(settings, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.updating = True
        self.optimizer.step()
        return {
            "step": step,
            "loss": loss,
            **_figures(draws),
            "grad_norm": float(grad_norm),
            "learning_rate": rate,
            "draws": len(draws),
            "lm_tokens": draws.cost.lm_tokens + lm_tokens(draws.completions),
            "draw_seconds": drawn - start,
            "seconds": time.perf_counter() - start,
            **self.context.metrics,
        }

    def _backward(self, draws: Draws, weight_N: Tensor) -> float:
        """Gradients of the mean loss over all draws, micro-batch by micro-batch."""
        self.optimizer.zero_grad()
        total = 0.0
        for rows in self._micro_batches(draws):
            log_prob_n = self.policy.log_prob(draws.completions.select(rows))
            loss = self.objective.loss(log_prob_n, weight_N[rows]).sum() / len(draws)
            self.accelerator.backward(loss)
            total += float(loss.detach())
        return total

    def _micro_batches(self, draws: Draws) -> list[Tensor]:
        groups = self.policy.micro_batches(draws.completions)
        size = self.settings.micro_batch_size
        return groups if size is None else [part for g in groups for part in g.split(size)]

    def _resume(self) -> None:
        if self.run_directory is None:
            return
        newest = latest_checkpoint(self.run_directory.checkpoints)
        if newest is not None:
            self.finished = load_checkpoint(newest, self.policy, self.optimizer)
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
                self.policy,
                self.optimizer,
                self.settings.keep_checkpoints,
            )


def _figures(draws: Draws) -> dict[str, float]:
    """The step's own estimates over its draws, nats per completion (reward in its units)."""
    log_pi_N = draws.log_proposal_N
    return {
        "elbo": float(draws.log_weight.mean()),
        "mean_reward": float(draws.reward_N.mean()),
        "kl_to_prior": float((log_pi_N - draws.log_prior_N).mean()),
        "entropy": float(-log_pi_N.mean()),
    }

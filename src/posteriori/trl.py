"""The same figures and findings inside a run of one of TRL's trainers.

from posteriori.trl import PosterioriCallback
trainer.add_callback(PosterioriCallback(trainer, target, every=50))
"""

from __future__ import annotations

import sys
import time
from typing import Any, Literal

from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from posteriori.core.same_outcomes import difference_in_outcomes
from posteriori.core.target import Target
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.models.causal import CausalLM
from posteriori.train.monitor.early_stopping import stopping_findings
from posteriori.train.monitor.evaluator import FIGURES, Evaluator, line_of, trusted

from .errors import ConfigError, ModelError


class PosterioriCallback(TrainerCallback):
    """How far the model of a trainer is from the target, every so many steps of its run.

    For any `transformers.Trainer` of a causal language model: TRL's GRPO, RLOO, DPO, Online DPO and
    others. Before the first step, after every `every` steps, after the trainer's own evaluations
    and at the end, `posteriori.evaluate` takes draws of the model. Its metrics are logged by the
    trainer as `posteriori/kl_to_target` and so on, each with its standard error as
    `posteriori/kl_to_target_se`, and as `posteriori/kl_to_target_trusted` 1 or 0: whether a finding
    says that it is not to be trusted. So they are in its trackers and its `log_history`; `reports`
    has them whole, by step.

    The model is used where it is: no weights are copied, an adapter is on, dropout is off. Modes,
    gradients and random streams are left as they were: the run is the same, bit for bit, with and
    without it.

    Args:
        trainer: the trainer, before it trains.
        target: what is wanted, as a posterior: for a trainer with reward r and KL coefficient beta
            that is `posteriori.Reward(r, beta)` on another copy of the model that it started from.
        every: steps between two evaluations.
        num_samples: draws per prompt of each.
        seed: of these draws.
        on_finding: "warn" writes on standard error what is wrong if the run diverges or collapses;
            "stop" ends the training as well; "off" does neither.

    Raises:
        ConfigError: for `every` or `num_samples` out of range, and for sharded models.
        ModelError: where the trainer's tokens or device are not those of the target's prior, or the
            prior is the model that is trained.

    Example:
        >>> from posteriori.trl import PosterioriCallback
        >>> def watch(trainer, target):
        ...     trainer.add_callback(PosterioriCallback(trainer, target, every=50))
    """

    def __init__(
        self,
        trainer: Trainer,
        target: Target,
        *,
        every: int = 50,
        num_samples: int = 64,
        seed: int = 0,
        on_finding: Literal["off", "warn", "stop"] = "warn",
    ) -> None:
        if every < 1 or num_samples < 2:
            raise ConfigError(
                f"every={every} must be at least 1 and num_samples={num_samples} at least 2",
                where="PosterioriCallback",
            )
        if on_finding not in ("off", "warn", "stop"):
            raise ConfigError(
                f"on_finding={on_finding!r} is unknown",
                where="PosterioriCallback",
                hint='write "off", "warn" or "stop"',
            )
        _check_whole(trainer)
        self.trainer, self.every, self.on_finding = trainer, every, on_finding
        self.evaluator = Evaluator(target, num_samples, seed)
        self.reports: dict[int, Report] = {}
        self._lines: list[dict[str, Any]] = []
        self._told: set[str] = set()
        _check_same_tokens(self._policy(), target)

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        if state.global_step % self.every == 0:
            self._look(state, control)

    on_train_begin = on_step_end

    def on_evaluate(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        self._look(state, control)

    on_train_end = on_evaluate

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        step = state.global_step
        if step in self.reports or not state.is_world_process_zero:
            return
        start = time.perf_counter()
        report = self.evaluator.look(self._policy(), step, state.max_steps)
        self.reports[step] = report
        self._lines.append(line_of(report, step, start))
        self._log(report, control)
        self._warn(control)

    def _log(self, report: Report, control: TrainerControl) -> None:
        """By the plain Trainer's `log`: those of TRL's would take the metrics of the steps so far
        with them. It also calls off a log that is due at this step, which is therefore renewed."""
        due = control.should_log
        logged: dict[str, float] = {}
        for name in FIGURES:
            if name in report:
                logged[f"posteriori/{name}"] = report[name].value
                logged[f"posteriori/{name}_se"] = report[name].standard_error
                logged[f"posteriori/{name}_trusted"] = float(trusted(report, name))
        Trainer.log(self.trainer, logged)
        control.should_log = due

    def _warn(self, control: TrainerControl) -> None:
        if self.on_finding == "off":
            return
        for finding in stopping_findings(self._lines):
            if finding.name not in self._told:
                self._told.add(finding.name)
                sys.stderr.write(f"{finding}\n")
            if self.on_finding == "stop":
                control.should_training_stop = True

    def _policy(self) -> CausalLM:
        return CausalLM(_model(self.trainer), _tokenizer(self.trainer))


def _model(trainer: Trainer) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model)


def _tokenizer(trainer: Trainer) -> PreTrainedTokenizerBase:
    processing: Any = trainer.processing_class
    return getattr(processing, "tokenizer", processing)


def _check_whole(trainer: Trainer) -> None:
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            "the trainer's model is sharded (FSDP or DeepSpeed), and draws need it whole",
            where="PosterioriCallback",
            hint="evaluate the checkpoints that it saves: posteriori evaluate CONFIG CHECKPOINT",
        )


def _check_same_tokens(policy: CausalLM, target: Target) -> None:
    prior = target.prior
    if not isinstance(prior, CausalLM):
        raise ModelError(
            f"the prior is a {type(prior).__name__}, and the trainer's model a transformers one",
            where="PosterioriCallback",
            hint="load the prior with posteriori.load",
        )
    if prior.model is policy.model and prior.adapter == policy.adapter:
        raise ModelError(
            "the prior is the very model that is trained, and would move with it",
            where="PosterioriCallback",
            hint="load a copy of what the trainer starts from with posteriori.load",
        )
    difference = difference_in_outcomes(prior, policy, target.prompts)
    if difference is not None:
        raise ModelError(
            f"the tokens of the trainer's model are not those of the target's prior: {difference}",
            where="PosterioriCallback",
            hint="load the prior from what the trainer starts from",
        )
    if policy.device.type != prior.device.type:
        raise ModelError(
            f"the trainer's model is on {policy.device}, and the prior on {prior.device}",
            where="PosterioriCallback",
            hint=f'write posteriori.load(path, device="{policy.device}")',
        )

"""One run: draw, score under the target, loss, backward, guard, step, record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import FitSettings
from ..draw import lm_tokens
from ..errors import PosterioriError
from ..evidence.call import CallContext, TrainerState, calling_within
from ..models.kept import kept_while_frozen
from ..objectives.base import Objective
from ..protocols import TrainableLM
from ..seeds import derive, generator
from ..target import Target
from ..types import Draws, Finding
from . import guards
from .budget import Budget
from .checkpoint import Running, latest_checkpoint, load_checkpoint, save_checkpoint
from .lookout import Lookout
from .replay import Replay
from .run_dir import RunDirectory
from .schedule import prompts_of_step, share_of_rate
from .selection import Selection, State
from .signal import signal_of
from .update import Updater

StepCallback = Callable[[dict[str, Any]], None]


@dataclass
class Fit:
    """What `fit` returns: the trained policy, one record a step, and where the run lives.

    `target` is the one that was trained for, at the beta that `budget` found if there was one;
    `evaluations` are those made on the way; `stopped` is why the run ended early, if it did.
    `policy` is the last one, unless `findings` say that an earlier one was nearer to the target by
    the draws made on the way: then it is that one, and the last is kept in the run's `policy-last`.
    """

    policy: TrainableLM
    history: list[dict[str, Any]] = field(default_factory=list)
    output_dir: Path | None = None
    target: Target | None = None
    budget: Budget | None = None
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    stopped: Finding | None = None
    findings: tuple[Finding, ...] = ()
    objective: str = ""


class Trainer:
    """One run. It holds the policy, the optimiser and the number of finished steps."""

    def __init__(
        self,
        target: Target,
        objective: Objective,
        settings: FitSettings,
        run: RunDirectory | None,
        on_step: StepCallback | None,
        lookout: Lookout | None = None,
    ) -> None:
        self.target, self.objective, self.settings = target, objective, settings
        self.run_directory, self.lookout = run, lookout
        self.observers: list[StepCallback] = [] if on_step is None else [on_step]
        self.policy = self._new_policy()
        objective.prepare(target, self._new_policy, derive(settings.seed, "objective"))
        self.updater = Updater(self.policy, objective, settings)
        self.replay = Replay(self._replayed())
        self.history: list[dict[str, Any]] = []
        self.finished = 0
        self.forward: bool | None = None
        self.selection = Selection(settings.steps)
        self.context = CallContext(TrainerState(max_steps=settings.steps))

    def _new_policy(self) -> TrainableLM:
        settings, prior = self.settings, self.target.prior
        assert isinstance(prior, TrainableLM)
        return prior.as_policy(settings.policy, settings.lora, derive(settings.seed, "adapter"))

    def _replayed(self) -> int:
        """Earlier steps whose draws join each step: the user's number, or the objective's own."""
        if self.settings.replay is not None:
            return self.settings.replay
        prompts = self.settings.prompts_per_step or len(self.target.prompts)
        return self.objective.default_replay(prompts * self.settings.num_samples)

    def run(self) -> Fit:
        """All steps that are left, then the policy is saved."""
        self._resume()
        every = self.settings.checkpoint_every or max(1, self.settings.steps // 10)
        try:
            with calling_within(self.context), kept_while_frozen():
                stopped = self._look()
                while self.finished < self.settings.steps and stopped is None:
                    record = self._step(self.finished)
                    self.finished += 1
                    self.updater.under_way = False
                    self._record(record)
                    stopped = self._look()
                    last = stopped is not None or self.finished == self.settings.steps
                    if last or self.finished % every == 0:
                        self._checkpoint()
        except (PosterioriError, KeyboardInterrupt):
            # Half an update, or weights that are not finite, are no good state.
            if not self.updater.under_way:
                with contextlib.suppress(PosterioriError):
                    self._checkpoint()
            raise
        findings = self._hand_back()
        return Fit(
            self.policy,
            self.history,
            self.run_directory.path if self.run_directory else None,
            self.target,
            evaluations=self.lookout.lines if self.lookout else [],
            stopped=stopped,
            findings=findings,
        )

    def _hand_back(self) -> tuple[Finding, ...]:
        """Save the policy; where an earlier one was nearer, that one, and the last beside it."""
        chosen = self.selection.chosen() if self.objective.aims_at_target else None
        if chosen is not None:
            if self.run_directory:
                self.policy.save_pretrained(self.run_directory.last_policy)
            self.policy.load_trained_state(chosen.state)
        if self.run_directory:
            self.policy.save_pretrained(self.run_directory.policy)
        return () if chosen is None else (chosen.finding,)

    def _look(self) -> Finding | None:
        """Why the run has to stop now, if it is being looked at and has to."""
        return self.lookout.at(self.finished, self.policy) if self.lookout else None

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
        share = share_of_rate(settings, step)
        state = dict(self.policy.trained_state()) if self.selection.begins(step) else None
        state = state and {name: tensor.detach().clone() for name, tensor in state.items()}
        updates = self.updater(draws, constants, share, step)
        self.replay.keep(fresh)
        log_prob_N = fresh.log_proposal_N
        if not self.objective.on_policy:
            log_prob_N = updates[0].log_prob_N[: len(fresh)]
        return {
            "step": step,
            "loss": updates[0].loss,
            **self.objective.observe(fresh, log_prob_N),
            "grad_norm": max(update.grad_norm for update in updates),
            "learning_rate": share * self.updater.full_rate,
            **self._learn_from(step, state, fresh, log_prob_N),
            "draws": len(fresh),
            "lm_tokens": fresh.cost.lm_tokens + len(updates) * lm_tokens(draws.completions),
            "draw_seconds": drawn - start,
            "seconds": time.perf_counter() - start,
            **self.context.metrics,
        }

    def _learn_from(
        self, step: int, state: State | None, fresh: Draws, log_prob_N: Tensor
    ) -> dict[str, float]:
        """What draws that no update had used say of the rate, and of the policy that met them."""
        if not self.objective.aims_at_target or bool(fresh.log_proposal_N.isnan().any()):
            return {}
        if self.forward is None:
            ruled_out = bool(fresh.log_evidence_N.isneginf().any())
            self.forward = ruled_out or not self.objective.on_policy
        signal = signal_of(fresh, log_prob_N, forward=self.forward)
        if signal is None:
            return {}
        self.selection.add(step, state, signal)
        return {"shrink": self.updater.learn_from(signal)} if self.updater.auto else {}

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
            if self.updater.auto is not None:
                self.updater.auto.load_state_dict(others["rate"])
            self.selection.load_state_dict(others["selection"])
            self.forward = others["forward"]
        self.history = self.run_directory.keep_metrics_before(self.finished)
        if self.lookout:
            self.lookout.resume(self.finished)

    def _record(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        if self.run_directory:
            self.run_directory.append_metrics(record)
        for observer in self.observers:
            observer(record)

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
        auto = self.updater.auto
        return {
            "objective": self.objective.state_dict(),
            "replay": self.replay.state_dict(),
            "rate": None if auto is None else auto.state_dict(),
            "selection": self.selection.state_dict(),
            "forward": self.forward,
        }

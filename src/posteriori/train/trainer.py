"""One run: draw, score under the target, loss, backward, guard, step, record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posteriori.core.draw import lm_tokens
from posteriori.core.elsewhere import served
from posteriori.core.hooks import DrawsElsewhere
from posteriori.core.journal.files import save_folder
from posteriori.core.journal.random_streams import Streams, read_streams
from posteriori.core.prompted import Prompted
from posteriori.core.protocols import CachesWeights, LanguageModel, TrainableLM
from posteriori.core.run.call_context import CallContext, TrainerState, calling_within
from posteriori.core.run.out_of_memory import explained
from posteriori.core.run.signals import Signalled, Signals
from posteriori.core.seeds import derive, generator
from posteriori.core.settings.training import FitConfig, prompts_per_step
from posteriori.core.target import Target
from posteriori.core.types import Draws, Finding
from posteriori.distributed.exchange import all_are_here, by_first
from posteriori.distributed.world import alone
from posteriori.errors import PosterioriError
from posteriori.objectives.base import Objective
from posteriori.runs.directory import RunDirectory, jsonable
from posteriori.train.monitor.learnable import Learnable
from posteriori.train.monitor.periodic_evaluation import Note, PeriodicEvaluation
from posteriori.train.step_size.schedule import prompts_of_step, share_of_rate

from . import guards
from .checkpoint import Running, load_newest, remove_unfinished, save_checkpoint, save_sharded
from .effective_draws import EffectiveDraws
from .fit_result import OF_THE_RUN, stopped_by
from .fit_result import Fit as Fit
from .fresh_draws import FreshDraws
from .mismatch import mismatch, mismatch_finding, own_log_prob
from .preparation.policies import Policies
from .ptx import mix_of
from .replay import Replay
from .selection import Selection
from .update import Updater

StepCallback = Callable[[dict[str, Any]], None]


class Trainer:
    """One run. It holds the policy, the optimiser and the number of finished steps."""

    def __init__(
        self,
        target: Target,
        objective: Objective,
        settings: FitConfig,
        run: RunDirectory | None,
        on_step: StepCallback | None,
        periodic_evaluation: PeriodicEvaluation | None = None,
        on_note: Note | None = None,
        start: TrainableLM | None = None,
        sampler: DrawsElsewhere | None = None,
    ) -> None:
        self.start = start
        elsewhere = start is not None or isinstance(target.prior, Prompted)
        self.target, self.objective, self.settings = target, objective, settings
        objective.engine = sampler
        self.run_directory, self.periodic_evaluation = run, periodic_evaluation
        self.observers: list[StepCallback] = [] if on_step is None else [on_step]
        policies = Policies(target, start, settings)
        self.policy, self.sharded = policies.new(), policies.sharded
        objective.prepare(target, policies.new, derive(settings.seed, "objective"))
        policies.shard(objective)
        self.mix = mix_of(settings.ptx, target.prior, derive(settings.seed, "ptx"))
        self.updater = Updater(self.policy, objective, settings, self.mix)
        self.replay = Replay(self._replayed())
        self.effective = EffectiveDraws(
            target, settings.steps, settings.seed if elsewhere else None
        )
        self.history: list[dict[str, Any]] = []
        self.finished = 0
        self.fresh_draws = FreshDraws(
            self.policy,
            start,
            self.updater,
            Selection(settings.steps, elsewhere=elsewhere),
            on_policy=objective.on_policy,
        )
        self.findings: list[Finding] = []
        self.on_note = on_note
        self.updater.on_finding = self._found
        self.signals = Signals(busy=lambda: self.updater.under_way)
        self._streams_before: Streams | None = None
        self.learnable = Learnable(target, settings.steps)
        self.context = CallContext(
            TrainerState(max_steps=settings.steps),
            reserved=OF_THE_RUN,
            on_reward=self.learnable.rewards,
        )

    @property
    def _aims(self) -> bool:
        """Whether the run is to end at the target: a pretraining mix leads it elsewhere."""
        return self.objective.aims_at_target and self.mix is None

    def _replayed(self) -> int:
        """Earlier steps whose draws join each step: the user's number, or the objective's own."""
        if self.settings.replay is not None:
            return self.settings.replay
        prompts = prompts_per_step(self.settings.prompts_per_step, len(self.target.prompts))
        return self.objective.default_replay(prompts * self.settings.num_samples)

    def run(self) -> Fit:
        """All steps that are left, then the policy is saved.

        Whatever stops them, an exception or a signal, a checkpoint of the last good state is left.
        Raises `StoppedError` where a signal other than SIGINT stops them, `MemoryLimitError` where
        memory runs out for good.
        """
        hint = "set a lower micro_batch_size, num_samples, max_new_tokens or memory_gib"
        try:
            with self.signals, explained("training", hint):
                return self._run()
        except Signalled as error:
            folder = self.run_directory and self.run_directory.path
            raise stopped_by(error.number, self.finished, self.settings.steps, folder) from error

    def _run(self) -> Fit:
        self._resume()
        every = self.settings.checkpoint_every or max(1, self.settings.steps // 10)
        try:
            with calling_within(self.context), self._caching():
                stopped = self._look()
                while self.finished < self.settings.steps and stopped is None:
                    self._streams_before = read_streams()
                    self._count(self._step(self.finished))
                    stopped = self._look()
                    last = stopped is not None or self.finished == self.settings.steps
                    if last or self.finished % every == 0:
                        self._checkpoint()
        except BaseException as error:
            self.signals.hold()
            # Half an update, or weights that are not finite, are no good state; and what is cut
            # over processes is written by all of them, or not at all.
            alone = self.sharded and not (isinstance(error, Exception) and all_are_here(str(error)))
            if not (self.updater.under_way or alone):
                with contextlib.suppress(PosterioriError):
                    self._checkpoint()
            raise
        self._hand_back()
        return Fit(
            self.policy,
            self.history,
            self.run_directory.path if self.run_directory else None,
            self.target,
            evaluations=self.periodic_evaluation.lines if self.periodic_evaluation else [],
            stopped=stopped,
            findings=self.learnable.settled(self.findings),
        )

    @contextlib.contextmanager
    def _caching(self) -> Iterator[None]:
        """No weight but the policy's changes in a run."""
        with contextlib.ExitStack() as stack:
            for lm in (self.policy, self.target.prior, self.start):
                if isinstance(lm, CachesWeights):
                    stack.enter_context(lm.caching_frozen_weights())
            yield

    def _hand_back(self) -> None:
        """Save the policy; where an earlier one was nearer, that one, and the last beside it."""
        chosen = self.fresh_draws.chosen() if self._aims else None
        if chosen is not None:
            if self.run_directory:
                self._save_policy(self.run_directory.last_policy)
            self.policy.load_trained_state(chosen.state)
            self._found(chosen.finding)
        if self.run_directory:
            self._save_policy(self.run_directory.policy)
        # The others may read what the first process has saved, from here on.
        by_first(lambda: None)

    def _save_policy(self, place: Path) -> None:
        save_folder(place, self.policy.save_pretrained, by_all=self.sharded)

    def _count(self, record: dict[str, Any]) -> None:
        """The step is finished: a signal that came within its update is obeyed after this."""
        with self.signals.held():
            self.finished += 1
            self.context.reserved |= record.keys() - self.context.metrics.keys()
            self.history.append(record)
            self._streams_before = None
            self.updater.under_way = False
            if self.run_directory:
                self.run_directory.append_metrics(record)
        # A user's callback may do with the policy what it likes, also in one process alone.
        with alone():
            for observer in self.observers:
                observer(record)

    def _found(self, finding: Finding) -> None:
        self.findings.append(finding)
        if self.on_note:
            self.on_note(str(finding))

    def _look(self) -> Finding | None:
        """Why the run has to stop now, if it has to."""
        found = (
            self.periodic_evaluation.at(self.finished, self.policy)
            if self.periodic_evaluation
            else None
        )
        nothing = self.learnable.verdict
        if found is None and nothing is not None and nothing.level == "stop":
            found = nothing if self.settings.on_finding == "stop" else None
        return by_first(lambda: found)

    def _step(self, step: int) -> dict[str, Any]:
        start = time.perf_counter()
        settings = self.settings
        self.context.trainer_state.global_step = step
        self.context.metrics.clear()
        prompts = self.target.prompts
        per_step = prompts_per_step(settings.prompts_per_step, len(prompts))
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
        for finding in self.learnable.see(fresh, step):
            self._found(finding)
        of_engine = mismatch(fresh)
        self._report(mismatch_finding(of_engine, step))
        effective, tokens = {}, 0
        if self.objective.on_policy:
            tokens = self.effective.measure(fresh, self._drawing, step)
            effective["effective_draws"] = self.effective.figure
        draws = self.replay.joined_by(fresh)
        constants = self.objective.weigh(draws, self._log_prob_now(draws, fresh))
        guards.check_constants(draws, constants, step)
        drawn = time.perf_counter()
        share = share_of_rate(settings, step)
        state = self.fresh_draws.state_before(step) if self._aims else None
        updates = self.updater(draws, constants, share, step)
        self.replay.keep(fresh)
        if self.mix is not None:
            self.mix.taken()
        log_prob_N = self._log_prob_drawn(fresh)
        if not self.objective.on_policy:
            log_prob_N = updates[0].log_prob_N[: len(fresh)]
        return {
            "step": step,
            "loss": updates[0].loss,
            **self.objective.observe(fresh, log_prob_N),
            **effective,
            **of_engine,
            **updates[0].of_mix,
            "grad_norm": max(update.grad_norm for update in updates),
            "learning_rate": share * self.updater.full_rate,
            # After the rate of this step is recorded: they change it.
            **(self.fresh_draws.learn(step, state, fresh, log_prob_N) if self._aims else {}),
            "draws": len(fresh),
            "lm_tokens": fresh.cost.lm_tokens
            + tokens
            + len(updates) * (lm_tokens(draws.completions) + self.updater.tokens_of_mix),
            "draw_seconds": drawn - start,
            "seconds": time.perf_counter() - start,
            **self.context.metrics,
        }

    def _log_prob_drawn(self, draws: Draws) -> Tensor:
        """log pi of draws of the policy: what drew them says it, unless that was an engine, whose
        log-probs are those of its own q."""
        own_N = own_log_prob(draws)
        return draws.log_proposal_N if own_N is None else own_N

    @property
    def _drawing(self) -> LanguageModel:
        """The distribution that draws for the policy: what of it is missing shows in its own
        log-probs."""
        engine = self.objective.engine
        return self.policy if engine is None else served(engine.standing_for(self.policy))

    def _report(self, finding: Finding | None) -> None:
        """The first of its name."""
        if finding is not None and finding.name not in {each.name for each in self.findings}:
            self._found(finding)

    def _log_prob_now(self, draws: Draws, fresh: Draws) -> Tensor:
        """log pi of every draw, of which the first are `fresh`; NaN for those it is not known of,
        where it is not asked for."""
        known = len(fresh) if self.objective.on_policy else 0
        log_prob_N = torch.full_like(draws.log_prior_N, torch.nan)
        log_prob_N[:known] = self._log_prob_drawn(fresh)[:known]
        if self.objective.needs_log_prob and known < len(draws):
            with torch.no_grad():
                log_prob_N[known:] = self.policy.log_prob(
                    draws.completions.select(slice(known, None))
                )
        return log_prob_N

    def _resume(self) -> None:
        """Put the newest whole checkpoint back, and the lines that belong to it."""
        run = self.run_directory
        if run is None:
            return
        if run.writes:
            remove_unfinished(run.checkpoints)
        restored, found = load_newest(
            run.checkpoints, self.policy, self.updater.optimizer, run.name, self.settings.steps
        )
        for finding in found:
            self._found(finding)
        if restored is not None:
            self.finished = restored.step
            self.objective.load_state_dict(restored.others["objective"])
            self.replay.load_state_dict(restored.others["replay"], self.policy.decode)
            if self.mix is not None:
                self.mix.load_state_dict(restored.others["ptx"])
            self.effective.load_state_dict(restored.others["effective"], self.policy.decode)
            self.learnable.load_state_dict(restored.others["learnable"])
            if self.updater.auto is not None:
                self.updater.auto.load_state_dict(restored.others["rate"])
            self.fresh_draws.load_state_dict(restored.others)
            self.updater.rows_that_fit = restored.others["rows_that_fit"]
        run.restore(restored.history if restored else {"metrics": [], "evaluations": []})
        self.history = run.metrics()
        if self.periodic_evaluation:
            self.periodic_evaluation.resume()

    def _checkpoint(self) -> None:
        run = self.run_directory
        if run is None or not (run.writes or self.sharded):
            return
        guards.check_weights(self.policy, self.finished)
        run.flush()
        running = Running(
            self.policy,
            self.updater.optimizer,
            self._others(),
            # Within a step that did not end, those that it began with: it is made again.
            self._streams_before or read_streams(),
            {
                "metrics": jsonable(self.history),
                "evaluations": self.periodic_evaluation.lines if self.periodic_evaluation else [],
            },
            run.name,
        )
        save = save_sharded if self.sharded else save_checkpoint
        save(run.checkpoints, self.finished, running, self.settings.keep_checkpoints)

    def _others(self) -> dict[str, Any]:
        auto = self.updater.auto
        return {
            "objective": self.objective.state_dict(),
            "replay": self.replay.state_dict(),
            **({} if self.mix is None else {"ptx": self.mix.state_dict()}),
            "effective": self.effective.state_dict(),
            "learnable": self.learnable.state_dict(),
            "rate": None if auto is None else auto.state_dict(),
            **self.fresh_draws.state_dict(),
            "rows_that_fit": self.updater.rows_that_fit,
        }

"""Periodic evaluation: a record every few steps, its findings, and whether training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from posteriori.core.protocols import LanguageModel
from posteriori.core.settings.training import FitConfig
from posteriori.core.types import Finding
from posteriori.distributed.world import alone
from posteriori.runs.directory import RunDirectory

from .early_stopping import stopping_findings
from .evaluator import Evaluator, line_of

Note = Callable[[str], None]
EvaluationCallback = Callable[[dict[str, Any]], None]


class PeriodicEvaluation:
    """Evaluates the policy before the first step and after every `evaluate_every` steps.

    `lines` are all evaluations so far. Whether to stop is a function of the lines alone, so
    a resumed run decides as one that was never interrupted.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        settings: FitConfig,
        run: RunDirectory | None,
        note: Note,
        on_evaluation: EvaluationCallback | None,
    ) -> None:
        self.evaluator, self.settings, self.run = evaluator, settings, run
        self.note = note
        self.observers = [] if on_evaluation is None else [on_evaluation]
        self.lines: list[dict[str, Any]] = []
        self._noted: set[str] = set()

    def resume(self) -> None:
        """Take up the lines that the run's directory holds."""
        if self.run is not None:
            self.lines = self.run.evaluations()

    def at(self, step: int, policy: LanguageModel) -> Finding | None:
        """Evaluate, if `step` is due; returns the finding that stops the run, if there is one."""
        if step % self.settings.evaluate_every:
            return None
        if not (self.lines and self.lines[-1]["step"] == step):
            self._look(step, policy)
        if self.settings.on_finding == "off":
            return None
        found = stopping_findings(self.lines)
        for finding in found:
            if finding.name not in self._noted:
                self._noted.add(finding.name)
                self.note(str(finding))
        return found[0] if found and self.settings.on_finding == "stop" else None

    def _look(self, step: int, policy: LanguageModel) -> None:
        start = time.perf_counter()
        line = line_of(self.evaluator.look(policy, step, self.settings.steps), step, start)
        self.lines.append(line)
        if self.run is not None:
            self.run.append_evaluation(line)
        with alone():
            for observer in self.observers:
                observer(line)

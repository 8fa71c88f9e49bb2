"""Evaluation at intervals: lines, a file of them, notes, and whether to go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from posteriori.core.protocols import LanguageModel
from posteriori.core.settings.training import FitSettings
from posteriori.core.types import Finding
from posteriori.runs.directory import RunDirectory

from .early_stopping import alarms
from .evaluator import Watch, line_of

Note = Callable[[str], None]
EvaluationCallback = Callable[[dict[str, Any]], None]


class Lookout:
    """Looks at the policy after every `evaluate_every` steps, the first time before any.

    `lines` are all evaluations so far. What is alarming about them is a function of the lines
    alone, so a run that is resumed decides as one that never stopped.
    """

    def __init__(
        self,
        watch: Watch,
        settings: FitSettings,
        run: RunDirectory | None,
        note: Note,
        on_evaluation: EvaluationCallback | None,
    ) -> None:
        self.watch, self.settings, self.run = watch, settings, run
        self.note = note
        self.observers = [] if on_evaluation is None else [on_evaluation]
        self.lines: list[dict[str, Any]] = []
        self._told: set[str] = set()

    def resume(self) -> None:
        """Take up the lines that the run's directory holds."""
        if self.run is not None:
            self.lines = self.run.evaluations()

    def at(self, step: int, policy: LanguageModel) -> Finding | None:
        """Look, if it is time to; returns why the run has to stop, if it has to."""
        if step % self.settings.evaluate_every:
            return None
        if not (self.lines and self.lines[-1]["step"] == step):
            self._look(step, policy)
        if self.settings.on_finding == "off":
            return None
        found = alarms(self.lines)
        for finding in found:
            if finding.name not in self._told:
                self._told.add(finding.name)
                self.note(str(finding))
        return found[0] if found and self.settings.on_finding == "stop" else None

    def _look(self, step: int, policy: LanguageModel) -> None:
        start = time.perf_counter()
        line = line_of(self.watch.look(policy, step, self.settings.steps), step, start)
        self.lines.append(line)
        if self.run is not None:
            self.run.append_evaluation(line)
        for observer in self.observers:
            observer(line)

"""What a run hands back, and what it says when a signal has stopped it."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from posteriori.core.display.shown import counted, html_findings, html_table
from posteriori.core.protocols import TrainableLM
from posteriori.core.target import Target
from posteriori.core.types import Finding
from posteriori.errors import StoppedError
from posteriori.train.monitor.likelihood import LikelihoodFigures
from posteriori.train.monitor.pair_metrics import PairFigures

from .budget import Budget

OF_THE_RUN = frozenset(
    (
        *("step", "loss", "grad_norm", "learning_rate", "draws", "lm_tokens"),
        *("draw_seconds", "seconds", "mean_reward", "entropy"),
    )
)
"""Figures of a step's record that no function may log by their name."""


@dataclass(repr=False)
class Fit:
    """What `posteriori.fit` returns: the policy, a record per step, and where the run is kept.

    Args:
        policy: the last policy, unless `findings` say that an earlier one was nearer to the target
            by the draws made on the way: then that one, and the last is in the run's `policy-last`.
        history: a record per step.
        output_dir: the run's folder.
        target: the target that was trained for, at the beta that a budget found if there was one.
        budget: what the budget found: beta, KL (nats) and reward.
        evaluations: those made on the way.
        stopped: why the run ended early, if it did.
        findings: what is to be known of the run, such as a damaged checkpoint.
        objective: the name of the one that was run.
        pairs: how the policy orders the preference pairs that were held out, if there were any.
        likelihood: of `sft`, the nats of held-out demonstrations before and after.

    Example:
        >>> fit = po.fit(target, "rloo", steps=2, learning_rate=0.1, seed=0)
        >>> len(fit.history), fit.last["step"]
        (2, 1)
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
    pairs: PairFigures | None = None
    likelihood: LikelihoodFigures | None = None

    def __repr__(self) -> str:
        shown = [f"{self.objective or 'fit'}, {counted(len(self.history), 'step')}"]
        shown += [f"{name} {self.last[name]:.4g}" for name in _SHOWN if name in self.last]
        shown += [f"in '{self.output_dir}'"] if self.output_dir else []
        shown += ["stopped early"] if self.stopped else []
        shown += [counted(len(self.findings), "finding")] if self.findings else []
        return f"Fit({', '.join(shown)})"

    def _repr_html_(self) -> str:
        numbers = [(k, f"{v:.4g}") for k, v in self.last.items() if isinstance(v, int | float)]
        table = html_table(("last step", ""), numbers)
        return f"<p>{escape(repr(self))}</p>{table}{html_findings(self.findings)}"

    @property
    def last(self) -> dict[str, Any]:
        """The record of the last step; empty without one."""
        return self.history[-1] if self.history else {}


_SHOWN = ("mean_reward", "kl_to_prior", "loss")


def stopped_by(number: int, finished: int, steps: int, folder: Path | None) -> StoppedError:
    """The error of a run that a signal has stopped after so many steps."""
    hint = "nothing was kept: give an output_dir"
    if folder is not None:
        hint = f"they are in '{folder}'; go on with resume=True (--resume)"
    name = signal.Signals(number).name
    return StoppedError(
        f"stopped by {name} after {finished} of {steps} steps", signal_number=number, hint=hint
    )

"""`posteriori.config`'s building of targets and models, with what takes time on standard error."""

from __future__ import annotations

from pathlib import Path

from posteriori.cli.console.output import stderr, visible
from posteriori.cli.console.progress_bar import count_progress, status
from posteriori.config import models, target
from posteriori.config.check import Plan
from posteriori.config.target import build_held_out as build_held_out
from posteriori.core.target import Target
from posteriori.models.causal import CausalLM
from posteriori.moments.moments import Moments


def build_target(
    plan: Plan,
    *,
    finds_beta: bool = True,
    quiet: bool = False,
    journal: Path | None = None,
    resume: bool = False,
) -> Target:
    """As `config.target.build_target`; what takes time is shown, unless `quiet`."""
    budget = target.budget_of_plan(plan) if finds_beta else None
    with status(f"loading '{plan.prior}'", quiet=quiet):
        loaded = target.unfitted_target(plan, _note)
    if not any(isinstance(each, Moments) for each in loaded.evidence):
        return target.finished_target(loaded, budget)
    with count_progress("fitting the moments", quiet=quiet) as on_progress:
        return target.finished_target(loaded, budget, on_progress, journal, resume)


def load_policy(plan: Plan, path: str, of: Target, *, quiet: bool = False) -> CausalLM:
    """As `config.models.load_policy`."""
    with status(f"loading '{path}'", quiet=quiet):
        return models.load_policy(plan, path, of.prior, _note)


def _note(text: str) -> None:
    stderr().print(visible(f"note: {text}"), soft_wrap=True)

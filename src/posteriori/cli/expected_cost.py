"""How much a verb will do and about how long it takes, said before anything is loaded.

Every completion costs at most max_new_tokens passes of the model; a pass of N parameters is 2 N
operations per token. That the machine does 20 billion a second and core, or 40,000 billion on a
GPU, is a guess that holds within a factor of a few. Time in functions and judges is not in it.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from posteriori.config.check import Plan
from posteriori.core.settings.training import prompts_per_step
from posteriori.data.formats.json_object import read_object
from posteriori.distributed.world import is_first
from posteriori.errors import ConfigError
from posteriori.models.bundled import bundled_models

_PER_CORE = 2e10
_PER_GPU = 4e13
_TRAINING = 3
"""Passes of a training step for each of its draws, in passes that draw: backward counts twice."""

_STAGES = 2
"""Annealed stages that a budget takes, as a rule."""

LONG = 3600.0
"""Seconds beyond which it is asked for."""


@dataclass(frozen=True)
class Work:
    """Completions that are drawn, their tokens, and passes of the model over a token."""

    completions: int
    passes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.completions + other.completions, self.passes + other.passes)


def drawing(plan: Plan, prompts: int, num_samples: int, passes: int = 2) -> Work:
    """`num_samples` completions for each of so many prompts; drawn and scored once by default."""
    number = prompts * num_samples
    return Work(number, number * plan.config.max_new_tokens * passes)


def of_evaluate(plan: Plan, num_samples: int, max_prompts: int, policies: int) -> Work:
    prompts = min(len(plan.data), max_prompts)
    of_prior = drawing(plan, prompts, num_samples, 1 + policies)
    return of_prior + drawing(plan, prompts, num_samples * policies)


def of_frontier(plan: Plan, num_samples: int, max_prompts: int, stages: int) -> Work:
    return drawing(plan, min(len(plan.data), max_prompts), num_samples * (1 + 2 * stages), 1)


def of_fit(plan: Plan) -> Work:
    fit, judging = plan.config.fit, plan.config.evaluate
    assert fit is not None
    per_step = prompts_per_step(fit.prompts_per_step, len(plan.data))
    work = drawing(plan, per_step, fit.steps * fit.num_samples, 2 + _TRAINING)
    if plan.budget is not None:
        work += of_frontier(plan, fit.budget_samples, fit.max_prompts, _STAGES)
    return work + of_evaluate(plan, judging.num_samples, judging.max_prompts, 1)


def seconds_of(plan: Plan, work: Work) -> float | None:
    """About how long it takes; None where the model's size is not known."""
    parameters = _parameters(plan.prior)
    if parameters is None:
        return None
    device = plan.config.prior.device
    gpu = device != "cpu" and (device is not None or shutil.which("nvidia-smi") is not None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    speed = _PER_GPU if gpu else _PER_CORE * (cores or 1)
    return 2.0 * parameters * work.passes / speed


def in_words(plan: Plan, work: Work) -> str:
    """Completions, tokens at most, and about how long, in one clause."""
    tokens = work.completions * plan.config.max_new_tokens
    seconds = seconds_of(plan, work)
    amount = f"{work.completions:,} completions, at most {tokens:,} tokens"
    if seconds is None:
        return f"{amount}; how long they take is not known before the model is here"
    return f"{amount}, about {duration(seconds)} besides loading and your own functions"


def duration(seconds: float) -> str:
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{max(seconds, 1):.0f} s"


def ask_if_long(plan: Plan, work: Work, *, yes: bool, hint: str) -> None:
    """Ask on a terminal whether what takes above an hour is meant; elsewhere it needs --yes.

    Raises `ConfigError` where there is no terminal to ask on, `typer.Abort` for a no.
    """
    seconds = seconds_of(plan, work)
    if yes or seconds is None or seconds < LONG or not is_first():
        return
    amount = in_words(plan, work)
    if sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm(f"This is {amount}. Go on?", abort=True, err=True)
        return
    raise ConfigError(f"this is {amount}", where=str(plan.file), hint=f"{hint}, or say --yes")


def _parameters(prior: str) -> float | None:
    """From the size of the weights that are here, at the bytes that its config says each takes."""
    place = bundled_models().get(prior, Path(prior))
    if place.suffix == ".gguf" and place.is_file():
        return float(place.stat().st_size)
    if not place.is_dir():
        return None
    adapter = place / "adapter_config.json"
    try:
        if adapter.is_file():
            return _parameters(read_object(adapter)["base_model_name_or_path"])
        config = read_object(place / "config.json")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    size = sum(
        file.stat().st_size for kind in ("safetensors", "bin") for file in place.glob(f"*.{kind}")
    )
    return size / (2 if "16" in dtype else 4) if size else None

"""What users' functions see of the run that calls them, and what they log through it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.errors import EvidenceError

from .context import current, within


@dataclass
class TrainerState:
    """What a reward function may read of the run that calls it."""

    global_step: int = 0
    max_steps: int = 0


@dataclass
class CallContext:
    """The run around the evidence: its state, and what functions log through it, by names other
    than the `reserved` ones of the run's own figures."""

    trainer_state: TrainerState = field(default_factory=TrainerState)
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    extra: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    reserved: frozenset[str] = frozenset()
    on_reward: Callable[[str, Completions, Tensor], None] | None = None
    """Hears what each of several reward functions answered: its name, [N] values, NaN for None."""

    def log_metric(self, name: str, value: float) -> None:
        if name in self.reserved:
            raise EvidenceError(
                f"log_metric({name!r}) would overwrite a figure of the run itself",
                hint=f"log it by another name, such as 'my_{name}'",
            )
        self.metrics[name] = float(value)

    def log_extra(self, column: str, values: Iterable[Any]) -> None:
        self.extra[column] = list(values)


@contextmanager
def calling_within(context: CallContext) -> Generator[CallContext]:
    """Functions called inside see `context` as their trainer state and log into it."""
    with within(calls=context):
        yield context


def current_calls() -> CallContext:
    """That of the run around, or an empty one where there is none."""
    return current().calls or CallContext()

"""Cost: from the evidence that makes calls and runs models to the record that counts them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .run.context import current, within
from .types import Cost


@dataclass
class Spent:
    """What has been reported so far."""

    cost: Cost = field(default_factory=Cost)


def spend(*, lm_tokens: int = 0, evidence_calls: int = 0) -> None:
    """Report what was run. The target reports its calls of evidence; evidence reports the tokens
    that it runs through language models of its own, and nothing for cached answers."""
    spent = current().spent
    if spent is not None:
        spent.cost += Cost(lm_tokens, evidence_calls)


@contextmanager
def counted() -> Generator[Spent]:
    """What is spent within. What is counted there is not counted once more around it."""
    spent = Spent()
    with within(spent=spent):
        yield spent

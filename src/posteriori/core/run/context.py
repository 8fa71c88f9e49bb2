"""What surrounds a piece of work, for code deep below whose callers do not know of it: users'
functions, evidence, and the loops of models.

Whatever else a function needs is passed to it. All of this is one object in one context variable, a
value that is replaced and never changed; another thread begins without.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posteriori.core.cost import Spent
    from posteriori.core.journal.pieces import Pieces

    from .call_context import CallContext


@dataclass(frozen=True)
class RunContext:
    """Each part is None where no caller has set it."""

    advance: Callable[[float], None] | None = None
    """Hears how many more completions are drawn, scored or judged (`progress`)."""
    shows_progress: bool = False
    """Whether a function around shows its progress, or is to show none."""
    spent: Spent | None = None
    """Where costs are counted (`cost`)."""
    calls: CallContext | None = None
    """What users' functions see of the run, and where they log (`call_context`)."""
    pieces: Pieces | None = None
    """Where finished pieces of work are kept (`journal`)."""


_CURRENT: ContextVar[RunContext] = ContextVar("posteriori_run", default=RunContext())  # noqa: B039 - it is frozen


def current() -> RunContext:
    return _CURRENT.get()


@contextmanager
def within(**parts: Any) -> Generator[None]:
    """Work inside is surrounded by these parts, and by the others as they are outside."""
    token = _CURRENT.set(replace(_CURRENT.get(), **parts))
    try:
        yield
    finally:
        _CURRENT.reset(token)

"""A completion's own text, whatever it is an answer to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posteriori.core.occurrence import Message


def own_text(completion: str | list[Message]) -> str:
    """A completion's own text, of a string or of the assistant's message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]

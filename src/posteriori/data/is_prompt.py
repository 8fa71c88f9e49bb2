"""What a prompt in a file may be: a string, or a conversation."""

from __future__ import annotations

from typing import Any


def is_prompt(value: Any) -> bool:
    """A string, or a conversation: messages whose role and content are strings."""
    if isinstance(value, str):
        return True
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in value
        )
    )

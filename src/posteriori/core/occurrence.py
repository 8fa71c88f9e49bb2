"""What a prompt is, and which row of a target, where the same one is there several times.

Data sets ask one question twice, with other answers beside it. The prompts are then equal as values
and stand for different rows, so each carries its row along. It is an ordinary string or list for
its readers, and what is computed from a prompt's text does not see the difference.
"""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
Prompt = str | list[Message]
"""A plain string, or a conversation: messages with a `role` and a `content`."""


def prompt_key(prompt: Prompt) -> str:
    """What makes two prompts the same one."""
    return prompt if isinstance(prompt, str) else repr(prompt)


class _Text(str):
    place: int | None = None


class _Messages(list[Any]):
    place: int | None = None


def marked(prompt: str | list[Any], place: int) -> str | list[Any]:
    """The prompt, which knows that it is row `place`."""
    copy = _Text(prompt) if isinstance(prompt, str) else _Messages(prompt)
    copy.place = place
    return copy


def place_of(prompt: Any) -> int | None:
    """The row that a prompt was marked as; None for one that was not."""
    return prompt.place if isinstance(prompt, _Text | _Messages) else None


def plain(prompt: str | list[Any]) -> str | list[Any]:
    """The prompt without a mark, for files."""
    return str(prompt) if isinstance(prompt, str) else list(prompt)

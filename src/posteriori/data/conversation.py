"""Conversations: what counts as one, and how a reply joins it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names of the roles."""


def conversation(value: Any) -> list[dict[str, Any]] | None:
    """The messages that `value` is: each with a role and a content (a string, or a list of parts).
    ShareGPT's "from" and "value" are read as these. None for anything else."""
    if not isinstance(value, list | tuple) or not value:
        return None
    messages = []
    for each in value:
        if not isinstance(each, Mapping):
            return None
        message = dict(each)
        if "from" in message and "value" in message:
            role = message.pop("from")
            message = {"role": _ROLES.get(role, role), "content": message.pop("value"), **message}
        if not isinstance(message.get("role"), str):
            return None
        if not isinstance(message.get("content"), str | list):
            return None
        messages.append(message)
    return messages


def answered(messages: Sequence[dict[str, Any]], reply: str) -> list[dict[str, Any]]:
    """The conversation with the assistant's reply; a message that the assistant has begun goes on
    in itself."""
    last = messages[-1]
    if last.get("role") == "assistant" and isinstance(last.get("content"), str):
        return [*messages[:-1], {**last, "content": last["content"] + reply}]
    return [*messages, {"role": "assistant", "content": reply}]


def with_text_contents(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with contents in parts, [{"type": "text", "text": ..}, ..], joined to strings.

    Parts of other kinds stay as they are, for templates that know them.
    """
    return [
        {**message, "content": "".join(part["text"] for part in message["content"])}
        if _is_all_text(message.get("content"))
        else message
        for message in messages
    ]


def _is_all_text(content: Any) -> bool:
    return isinstance(content, list | tuple) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    )

"""Which part of a row is the prompt, by the columns that TRL's trainers know.

prompt; messages or conversations (the last reply is the answer, not the prompt); chosen and
rejected, whose common beginning is the prompt.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from posteriori.errors import DataError

from .conversation import conversation
from .preferences import split_pair

if TYPE_CHECKING:
    from posteriori.core.occurrence import Prompt

_MESSAGES = ("messages", "conversations")
_ELSEWHERE = ("question", "query", "instruction", "problem", "input", "text")
"""What data sets call the column that holds the prompt, where they do not call it so."""


def prompt_and_columns(
    row: Mapping[str, Any], where: str, prompt_column: str | None = None
) -> tuple[Prompt, dict[str, Any]]:
    """The prompt of a row, and its other columns. Raises `DataError` where there is none."""
    others = dict(row)
    if prompt_column is not None:
        if prompt_column not in others:
            near = difflib.get_close_matches(prompt_column, others, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(others)}"
            raise DataError(f"the row has no '{prompt_column}'", where=where, hint=hint)
        return _checked(others.pop(prompt_column), prompt_column, where), others
    if "prompt" in others:
        return _checked(others.pop("prompt"), "prompt", where), others
    for name in _MESSAGES:
        if name in others:
            messages = _checked(others[name], name, where)
            if not isinstance(messages, str):
                return _before_the_reply(messages, name, where), others
    if others.get("chosen") is not None and others.get("rejected") is not None:
        chosen, rejected = (_checked(others[name], name, where) for name in ("chosen", "rejected"))
        kind = "string" if isinstance(chosen, str) else "conversation"
        prompt, others["chosen"], others["rejected"] = split_pair(chosen, rejected, kind, where)
        return prompt, others
    raise DataError("the row has no 'prompt'", where=where, hint=_hint(others))


def _hint(others: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches("prompt", others, n=1)
    if near:
        return f"rename its '{near[0]}'"
    other = next((name for name in _ELSEWHERE if name in others), None)
    if other is not None:
        return f"is it the '{other}'? write prompt_column = \"{other}\""
    return 'write {"prompt": "..."}'


def _before_the_reply(messages: list[dict[str, Any]], name: str, where: str) -> Prompt:
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end:
        raise DataError(
            f"'{name}' has messages of the assistant alone, so nothing is asked",
            where=where,
            hint="remove the row",
        )
    return messages[:end]


def _checked(value: Any, name: str, where: str) -> Prompt:
    if isinstance(value, str):
        return value
    found = conversation(value)
    if found is None:
        raise DataError(
            f"'{name}' is {json.dumps(value, default=str)[:60]}",
            where=where,
            hint='write a string, or messages such as [{"role": "user", "content": "..."}]',
        )
    return found

"""Unpaired feedback: rows of prompt, completion and label, as TRL's KTOTrainer takes them.

A prompt is a string or a conversation, a completion a string, the assistant's message or token ids,
and a label says whether it is desirable: true or false, or 1 or 0.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posteriori.errors import DataError

from .is_prompt import is_prompt
from .rows import rows_of

if TYPE_CHECKING:
    from posteriori.core.occurrence import Prompt

_COLUMNS = ("prompt", "completion", "label")
_EXAMPLE = '{"prompt": "...", "completion": "...", "label": true}'


class Feedback(NamedTuple):
    """After `prompt`, `completion` was `desirable` or not. `where` is its place."""

    prompt: Prompt
    completion: str | list[int]
    desirable: bool
    where: str


def read_feedback(source: Any) -> list[Feedback]:
    """Rows from any source (`posteriori.prompts`): a file, a data set, a table, a list.

    Raises `DataError` with the line or row for what is none: broken JSON, missing columns, empty
    completions, labels that are neither true nor false.
    """
    place = str(source) if isinstance(source, str | Path) else "feedback"
    found = [_feedback(row, where) for where, row in rows_of(source, "feedback")]
    if not found:
        raise DataError("no rows", where=place, hint=f"write rows such as {_EXAMPLE}")
    return found


def _feedback(row: Mapping[str, Any], where: str) -> Feedback:
    for name in _COLUMNS:
        if row.get(name) is None:
            near = difflib.get_close_matches(name, [key for key in row if key not in _COLUMNS], n=1)
            hint = f"rename its '{near[0]}'" if near else f"write {_EXAMPLE}"
            raise DataError(f"the row has no '{name}'", where=where, hint=hint)
    prompt, label = row["prompt"], row["label"]
    if not (isinstance(prompt, str) or is_prompt(prompt)):
        raise DataError(
            f"'prompt' is {str(prompt)[:60]}",
            where=where,
            hint='write a string, or messages such as [{"role": "user", "content": "..."}]',
        )
    if not (isinstance(label, bool) or label in (0, 1)) or isinstance(label, str):
        raise DataError(
            f"'label' is {label!r:.60}",
            where=where,
            hint="write true where the completion is desirable, and false where it is not",
        )
    return Feedback(prompt, completion_of(row["completion"], where), bool(label), where)


def completion_of(value: Any, where: str) -> str | list[int]:
    """A completion's text or token ids: of messages, that of the one that the assistant wrote."""
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        return value
    if is_prompt(value) and not isinstance(value, str):
        if len(value) > 1 or value[0]["role"] != "assistant":
            raise DataError(
                f"'completion' has {len(value)} messages, the first of the {value[0]['role']}",
                where=where,
                hint="a completion is one message of the assistant; put all before it into "
                "'prompt'",
            )
        value = value[0]["content"]
    if not isinstance(value, str):
        raise DataError(
            f"'completion' is {str(value)[:60]}",
            where=where,
            hint="write a string, or one message of the assistant",
        )
    if not value:
        raise DataError("'completion' is empty", where=where, hint="remove the row")
    return value

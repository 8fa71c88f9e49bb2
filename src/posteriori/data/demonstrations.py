"""Demonstrations: rows of what is to be written, with the columns that TRL's SFTTrainer takes.

`prompt` and `completion` (strings, or messages), `messages` (each turn of the assistant is one
demonstration, after what came before it), or `text` (all of it a completion of the empty prompt).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posteriori.errors import DataError

from .feedback import completion_of
from .is_prompt import is_prompt
from .rows import rows_of

if TYPE_CHECKING:
    from posteriori.core.occurrence import Prompt

_EXAMPLE = '{"prompt": "...", "completion": "..."}, {"messages": [...]} or {"text": "..."}'


class Demonstration(NamedTuple):
    """After `prompt`, `completion` was written. `where` is its place."""

    prompt: Prompt
    completion: str | list[int]
    where: str


def read_demonstrations(source: Any, *, completion_only: bool = True) -> list[Demonstration]:
    """Rows from any source (`posteriori.prompts`): a file, a data set, a table, a list.

    Without `completion_only` prompts that are strings become part of the completion. Raises
    `DataError` with the line or row for what is none.
    """
    place = str(source) if isinstance(source, str | Path) else "data"
    found = [each for where, row in rows_of(source, "data") for each in _of_row(row, where)]
    if not found:
        raise DataError("no rows", where=place, hint=f"write rows such as {_EXAMPLE}")
    return found if completion_only else [_whole(each) for each in found]


def _of_row(row: Mapping[str, Any], where: str) -> Iterator[Demonstration]:
    forms = [name for name in ("completion", "messages", "text") if row.get(name) is not None]
    if len(forms) != 1:
        wrong = f"the row has {' and '.join(forms)}" if forms else "the row has no completion"
        raise DataError(wrong, where=where, hint=f"write one of {_EXAMPLE}")
    if forms == ["text"]:
        yield Demonstration("", completion_of(row["text"], where), where)
    elif forms == ["messages"]:
        yield from _turns(row["messages"], where)
    else:
        prompt = row.get("prompt")
        if prompt is None or not is_prompt(prompt):
            wrong = "the row has no 'prompt'" if prompt is None else f"'prompt' is {prompt!s:.60}"
            raise DataError(wrong, where=where, hint=f"write {_EXAMPLE}")
        yield Demonstration(prompt, completion_of(row["completion"], where), where)


def _turns(messages: Any, where: str) -> Iterator[Demonstration]:
    if isinstance(messages, str) or not is_prompt(messages):
        raise DataError(
            f"'messages' is {str(messages)[:60]}",
            where=where,
            hint='write messages such as [{"role": "user", "content": "..."}, ...]',
        )
    turns = [at for at, each in enumerate(messages) if each["role"] == "assistant" and at > 0]
    if not turns:
        raise DataError(
            "'messages' has no turn of the assistant after another one", where=where, hint=""
        )
    for at in turns:
        content = completion_of(messages[at]["content"], where)
        yield Demonstration(list(messages[:at]), content, where)


def _whole(each: Demonstration) -> Demonstration:
    if isinstance(each.prompt, str) and isinstance(each.completion, str):
        return Demonstration("", each.prompt + each.completion, each.where)
    raise DataError(
        "only prompts and completions that are strings are learned as one text",
        where=each.where,
        hint="leave completion_only as it is, or write the row's 'text'",
    )

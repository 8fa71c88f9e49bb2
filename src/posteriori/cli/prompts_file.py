"""Prompts and data-set columns from a file: `.jsonl` with a "prompt" field, or `.txt` line by line.

Read strictly: whatever a line says twice, says in numbers that JSON does not have, or leaves out is
an error with the line's number, before anything is loaded.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import is_prompt
from ..errors import DataError
from ..json_lines import json_object, text_lines

RESERVED = (
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
)
"""Arguments that reward functions get anyway: a column of that name would take their place."""


@dataclass(frozen=True)
class PromptData:
    """Prompts, and one list a column with a value a prompt."""

    prompts: list[Any]
    columns: dict[str, list[Any]] = field(default_factory=dict)


def read_prompts(path: Path) -> PromptData:
    """Raises `DataError` with file and line for anything that is not a prompt."""
    if not path.is_file():
        raise DataError("there is no such file of prompts", where=str(path), hint="check 'prompts'")
    readers = {".jsonl": _read_jsonl, ".txt": _read_text}
    if path.suffix not in readers:
        raise DataError(
            f"prompts cannot be read from a '{path.suffix}' file",
            where=str(path),
            hint="write .jsonl (one JSON object a line) or .txt (one prompt a line)",
        )
    data = readers[path.suffix](path)
    if not data.prompts:
        raise DataError("no prompts in the file", where=str(path), hint="write one a line")
    return data


def _read_text(path: Path) -> PromptData:
    return PromptData([line for _, line in text_lines(path)])


def _read_jsonl(path: Path) -> PromptData:
    prompts: list[Any] = []
    rows: list[dict[str, Any]] = []
    first_line: dict[str, int] = {}
    names: list[str] | None = None
    for number, line in text_lines(path):
        where = f"{path}:{number}"
        row = json_object(line, where)
        prompt = _prompt(row, where)
        others = sorted(row)
        if names is None:
            names = others
            _refuse_reserved(names, where)
        elif others != names:
            odd = sorted(set(names) ^ set(others))[0]
            side = "has no" if odd in names else "has a"
            raise DataError(
                f"the row {side} '{odd}', unlike the first row",
                where=where,
                hint="give every row the same fields",
            )
        key = json.dumps(prompt)
        if key in first_line and names:
            raise DataError(
                f"the prompt of line {first_line[key]} is there again, so its columns are "
                "ambiguous",
                where=where,
                hint="make the prompts unique",
            )
        first_line.setdefault(key, number)
        prompts.append(prompt)
        rows.append(row)
    return PromptData(prompts, {name: [row[name] for row in rows] for name in names or []})


def _prompt(row: dict[str, Any], where: str) -> Any:
    if "prompt" not in row:
        near = difflib.get_close_matches("prompt", row, n=1)
        hint = f"rename its '{near[0]}'" if near else 'write {"prompt": "..."}'
        raise DataError("the row has no 'prompt'", where=where, hint=hint)
    prompt = row.pop("prompt")
    if not is_prompt(prompt):
        raise DataError(
            f"'prompt' is {json.dumps(prompt)[:60]}",
            where=where,
            hint='write a string, or messages such as [{"role": "user", "content": "..."}]',
        )
    return prompt


def _refuse_reserved(names: list[str], where: str) -> None:
    taken = [name for name in names if name in RESERVED]
    if taken:
        raise DataError(
            f"a column cannot be called '{taken[0]}', which reward functions receive anyway",
            where=where,
            hint="rename it",
        )

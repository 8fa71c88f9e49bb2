"""Preference data: rows of prompt, chosen and rejected, as TRL's trainers take them.

Each of the three is a string, or a conversation (a list of messages). The prompt may be missing:
then it is what chosen and rejected have in common at their beginning.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posteriori.errors import DataError

from .is_prompt import is_prompt
from .rows import rows_of

if TYPE_CHECKING:
    from posteriori.core.occurrence import Prompt

PairSource = Any
"""A path, a `datasets.Dataset`, a DataFrame, a list of rows: see `rows.rows_of`."""

Reply = str | list[int]
"""A completion as text (of a conversation: the assistant's next message) or as token ids."""

_COLUMNS = ("prompt", "chosen", "rejected")
_EXAMPLE = '{"prompt": "...", "chosen": "...", "rejected": "..."}'


class Preference(NamedTuple):
    """One pair: after `prompt`, `chosen` was preferred to `rejected`. `where` is its place."""

    prompt: Prompt
    chosen: Reply
    rejected: Reply
    where: str


def read_preferences(source: PairSource) -> list[Preference]:
    """Pairs from any source of rows (`posteriori.prompts`): a file, a data set, a table, a list.

    Raises `DataError` with the line or row for whatever is no pair: broken JSON, missing columns,
    empty completions, several turns after the prompt.
    """
    return [preference(row, where) for where, row in preference_rows(source)]


def preference_rows(source: PairSource) -> list[tuple[str, dict[str, Any]]]:
    """Every row with its place, all columns as they are. Raises `DataError` where there are none,
    or where they cannot be read."""
    is_path = isinstance(source, str | Path)
    if is_path and Path(source).suffix == ".txt":
        raise DataError(
            "pairs cannot be read from a '.txt' file",
            where=str(source),
            hint="write .jsonl, .csv, .parquet, or a folder by datasets' save_to_disk",
        )
    place = str(source) if is_path else "pairs"
    rows = list(rows_of(source, "pairs"))
    if not rows:
        raise DataError("no pairs", where=place, hint=f"write rows such as {_EXAMPLE}")
    return rows


def preference(row: Mapping[str, Any], where: str) -> Preference:
    """The row as a pair; columns other than the three are left out."""
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            near = difflib.get_close_matches(name, [key for key in row if key not in _COLUMNS], n=1)
            hint = f"rename its '{near[0]}'" if near else f"write {_EXAMPLE}"
            raise DataError(f"the row has no '{name}'", where=where, hint=hint)
        if not row[name]:
            raise DataError(f"'{name}' is empty", where=where, hint="remove the row")
    values: tuple[Any, Any, Any] = (row.get("prompt"), row["chosen"], row["rejected"])
    prompt, chosen, rejected = values
    kinds = [_kind("chosen", chosen, where), _kind("rejected", rejected, where)]
    kinds += [] if prompt is None else [_kind("prompt", prompt, where)]
    if kinds[0] != kinds[1]:
        raise _mixed("chosen", kinds[0], "rejected", kinds[1], where)
    if prompt is None or (kinds[0] == "conversation" and kinds[2] == "string"):
        # Some data sets have the first turn once more in a column of its own.
        prompt, chosen, rejected = split_pair(chosen, rejected, kinds[0], where)
    elif kinds[2] != kinds[0] and kinds[0] != "ids":
        raise _mixed("prompt", kinds[2], "chosen", kinds[0], where)
    if kinds[0] == "conversation":
        chosen, rejected = _reply("chosen", chosen, where), _reply("rejected", rejected, where)
    return Preference(prompt, chosen, rejected, where)


def _kind(name: str, value: Any, where: str) -> str:
    if isinstance(value, str):
        return "string"
    if is_prompt(value):
        return "conversation"
    if name != "prompt" and isinstance(value, list) and all(type(each) is int for each in value):
        return "ids"
    raise DataError(
        f"'{name}' is {str(value)[:60]}",
        where=where,
        hint='write a string, or messages such as [{"role": "assistant", "content": "..."}]',
    )


def _mixed(name: str, kind: str, other: str, other_kind: str, where: str) -> DataError:
    return DataError(
        f"'{name}' is a {kind} and '{other}' is a {other_kind}",
        where=where,
        hint="write them all as strings, or all as conversations",
    )


def split_pair(chosen: Any, rejected: Any, kind: str, where: str) -> tuple[Any, Any, Any]:
    """Prompt, chosen and rejected from two sequences that begin with the prompt.

    Text is cut before the last word that both have begun, so that no token is cut; in scripts
    without spaces between words, and after a punctuation mark, between two characters. What more
    they have in common may stand on either side: it cancels in the difference of two log-ratios.
    """
    if kind == "ids":
        raise DataError("the row has no 'prompt'", where=where, hint=f"write {_EXAMPLE}")
    together = zip(chosen, rejected, strict=False)
    shared = chosen[: sum(1 for _ in takewhile(lambda two: two[0] == two[1], together))]
    if kind == "string":
        ends = [chosen[len(shared) :][:1], rejected[len(shared) :][:1]]
        shared = shared[: _last_boundary(shared, ends)]
    at = len(shared)
    if at == len(chosen) or at == len(rejected) or chosen == rejected:
        raise DataError(
            "without a 'prompt', one of 'chosen' and 'rejected' is how the other begins, so a "
            "completion would be empty",
            where=where,
            hint="give the row a 'prompt', or remove it",
        )
    if kind == "conversation" and at == 0:
        raise DataError(
            "without a 'prompt', 'chosen' and 'rejected' have no message in common",
            where=where,
            hint="give the row a 'prompt'",
        )
    return shared, chosen[at:], rejected[at:]


def _last_boundary(shared: str, ends: list[str]) -> int:
    """Where the last word of `shared` begins, with the space before it, when each of `ends` (a
    character, or none) may follow."""
    for at in range(len(shared), 0, -1):
        after = [shared[at]] if at < len(shared) else ends
        if all(_parts(shared[at - 1], each) for each in after):
            return at
    return 0


def _parts(before: str, after: str) -> bool:
    """Whether a word ends between two characters: at a space, which belongs to the next word; after
    a line break; at a character that is a word by itself; and after a punctuation mark. No word
    ends where nothing comes after it: a completion would be empty."""
    if not after or after == " ":
        return bool(after)
    if before.isspace():
        return before in "\n\r\t"
    if _is_word_by_itself(before) or _is_word_by_itself(after):
        return True
    return not before.isalnum() and before not in "'\u2019" and after.isalnum()


def _is_word_by_itself(character: str) -> bool:
    """Of a script without spaces between words: its letters, and its punctuation."""
    wide = unicodedata.east_asian_width(character) in "WF"
    name = unicodedata.name(character, "")
    return (wide or name.startswith(_WITHOUT_SPACES)) and not name.startswith("HANGUL")


_WITHOUT_SPACES = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE")


def _reply(name: str, messages: list[dict[str, Any]], where: str) -> str:
    first = messages[0]
    if len(messages) > 1 or first["role"] != "assistant":
        found = " and ".join(f"one of the {each['role']}" for each in messages[:3])
        raise DataError(
            f"after the prompt '{name}' has {len(messages)} messages: {found}",
            where=where,
            hint="a completion is one message of the assistant; put all before it into 'prompt'",
        )
    if not first["content"]:
        raise DataError(f"'{name}' is empty", where=where, hint="remove the row")
    return first["content"]

"""Prompts with their data-set columns, from whatever a user has them in."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.errors import ConfigError, DataError

from .formats.files import SUFFIXES
from .given_arguments import named_arguments
from .given_numbers import count
from .home import expanded
from .infer import prompt_and_columns
from .rows import Row, rows_of

if TYPE_CHECKING:
    from posteriori.core.occurrence import Prompt

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
    """Prompts, and one list per column with a value per prompt."""

    prompts: list[Prompt]
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        with_columns = f" with columns {', '.join(self.columns)}" if self.columns else ""
        return f"PromptData({len(self)} prompts{with_columns})"

    def sample(self, most: int, seed: int = 0) -> PromptData:
        """At most `most` of the prompts, drawn without replacement from `seed`, in their order."""
        return self if most >= len(self) else self.select(sample_rows(len(self), most, seed))

    def select(self, rows: Sequence[int]) -> PromptData:
        """The prompts at `rows`, with their columns."""
        return PromptData(
            [self.prompts[at] for at in rows],
            {name: [values[at] for at in rows] for name, values in self.columns.items()},
        )


def sample_rows(number: int, most: int, seed: int) -> list[int]:
    """`most` of so many rows without replacement, in order; all where there are no more."""
    return sorted(random.Random(seed).sample(range(number), min(most, number)))


@named_arguments
def prompts(
    source: Any,
    *,
    prompt_column: str | None = None,
    split: str | None = None,
    max_prompts: int | None = None,
    seed: int = 0,
) -> PromptData:
    """Prompts and columns of a data set, a table or a file, as `Target(prompts=...)` reads them.

    The prompt is found as TRL's trainers find it: the column "prompt" (a string or a conversation);
    "messages", up to the assistant's last reply; or what "chosen" and "rejected" begin with in
    common. Every other column goes to reward functions by its name. A prompt may be there several
    times, with other columns.

    Args:
        source: a `datasets.Dataset` or `IterableDataset`, a DataFrame, a list of rows or of
            prompts, a mapping of columns, a file (.jsonl, .json, .csv, .tsv, .parquet, .txt), a
            folder that `datasets` saved, or the id of a data set of the hub.
        prompt_column: the column that holds the prompt, where it has another name.
        split: which split, where there are several.
        max_prompts: at most so many, a sample without replacement from `seed`; of a stream, which
            has no length, the first ones.
        seed: of that sample.

    Returns:
        `PromptData`, which `Target`, `with_prompts` and `held_out` take as prompts.

    Raises:
        DataError: with the file and line, or the row, of whatever is no prompt.

    Example:
        >>> po.prompts([{"prompt": "2+2=", "answer": 4}])
        PromptData(1 prompts with columns answer)
    """
    if max_prompts is not None:
        count(max_prompts, "max_prompts")
    if isinstance(source, PromptData):
        data = source
    elif (named := as_path(source)) is not None:
        data = _of_rows(rows_of(named, "prompts", split), named, prompt_column)
    elif isinstance(source, str):
        raise ConfigError("prompts is one string", hint='write prompts=["..."]')
    else:
        data = _of_object(source, prompt_column, split, max_prompts)
    return data if max_prompts is None else data.sample(max_prompts, seed)


def as_path(source: Any) -> Path | None:
    """The path that a source is: a `Path`, or a string that ends as a file of prompts does, or
    names something that is there, or one data set of the hub; None for prompts."""
    if isinstance(source, Path):
        return source
    if not isinstance(source, str) or "\n" in source or len(source) > 1000:
        return None
    place = expanded(source)
    if place.suffix in SUFFIXES or (source and place.exists()):
        return place
    owner, slash, name = source.partition("/")
    is_hub = bool(slash and owner and name) and not any(c.isspace() for c in source)
    return place if is_hub else None


def _of_object(
    source: Any, prompt_column: str | None, split: str | None, most: int | None
) -> PromptData:
    """Of a list of prompts (strings, conversations), or of rows."""
    if isinstance(source, Sequence) or not _is_table(source):
        if not isinstance(source, Iterable):
            raise ConfigError(
                f"prompts is a {type(source).__name__}",
                hint='write prompts=["..."], or give a Dataset, a DataFrame or a path',
            )
        if isinstance(source, set | frozenset):
            raise ConfigError(
                "prompts is a set, whose order is another one in each process",
                hint="write a list, such as sorted(prompts)",
            )
        source = (
            list(source)
            if isinstance(source, Sequence) or hasattr(source, "__len__")
            else (source if most is None else islice(source, most))
        )
        first, source = _peek(source)
        if not isinstance(first, Mapping):
            return PromptData([_one(at, each) for at, each in enumerate(source)])
        if isinstance(first, Mapping) and {"role", "content"} <= first.keys():
            raise ConfigError(
                "prompts is one conversation",
                hint='write a list of them, [[{"role": "user", "content": "..."}]]',
            )
        rows = rows_of(source, "prompts", split)
    else:
        rows = rows_of(source, "prompts", split)
        if most is not None and not hasattr(source, "__len__"):
            rows = islice(rows, most)
    return _of_rows(rows, None, prompt_column)


def _is_table(source: Any) -> bool:
    named = ("column_names", "to_dicts", "to_pylist")
    is_frame = hasattr(source, "columns") and hasattr(source, "to_dict")
    return isinstance(source, Mapping) or is_frame or any(hasattr(source, n) for n in named)


def _peek(source: Any) -> tuple[Any, Any]:
    """The first of them, or None, and all of them."""
    if isinstance(source, list):
        return (source[0] if source else None), source
    stream = iter(source)
    first = next(stream, None)
    return first, [] if first is None else _again(first, stream)


def _again(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _one(at: int, prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        # Numpy's strings are strings; a marked one keeps its mark.
        return str(prompt) if type(prompt).__module__ == "numpy" else prompt
    if isinstance(prompt, list):
        messages = prompt
    elif isinstance(prompt, Iterable) and not isinstance(prompt, Mapping | bytes):
        messages = list(prompt)
    else:
        messages = []
    if not messages or not all(isinstance(each, Mapping) for each in messages):
        raise ConfigError(
            f"prompts[{at}] is {str(prompt)[:60]!r}, of type {type(prompt).__name__}",
            hint='write a string, or messages such as [{"role": "user", "content": "..."}]',
        )
    return messages


def _of_rows(rows: Iterable[Row], place: Path | None, prompt_column: str | None) -> PromptData:
    found: list[Prompt] = []
    columns: dict[str, list[Any]] | None = None
    for where, row in rows:
        prompt, others = prompt_and_columns(row, where, prompt_column)
        if columns is None:
            _refuse_reserved(others, where)
            columns = {name: [] for name in others}
        elif columns.keys() != others.keys():
            odd = sorted(columns.keys() ^ others.keys())[0]
            side = "has no" if odd in columns else "has a"
            raise DataError(
                f"the row {side} '{odd}', unlike the first row",
                where=where,
                hint="give every row the same fields",
            )
        found.append(prompt)
        for name, value in others.items():
            columns[name].append(value)
    if not found and place is not None:
        raise DataError("no prompts in the file", where=str(place), hint="write one per line")
    return PromptData(found, columns or {})


def _refuse_reserved(names: Iterable[str], where: str) -> None:
    taken = [name for name in names if name in RESERVED]
    if taken:
        raise DataError(
            f"a column cannot be called '{taken[0]}', which reward functions receive anyway",
            where=where,
            hint="rename it",
        )

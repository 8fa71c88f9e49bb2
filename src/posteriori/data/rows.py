"""Rows of any source: a list, a data set, a table, a file. Each is a dictionary with its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posteriori.errors import DataError

from .formats.files import read_rows
from .formats.values import check_depth, plain_value, present
from .home import expanded

Row = tuple[str, dict[str, Any]]
"""Where a row stands, in words, and its columns by name."""

MOST_OF_A_STREAM = 1_000_000
"""Rows after which a stream is taken for one that has no end."""


def rows_of(source: Any, name: str, split: str | None = None) -> Iterator[Row]:
    """The rows of `source`, which is called `name` in errors.

    A path; a `datasets.Dataset` or `IterableDataset`; a DataFrame (pandas, polars) or a pyarrow
    table; a mapping of columns; anything that yields dictionaries. `split` names one of several.
    Raises `DataError` for anything else.
    """
    if isinstance(source, str | Path):
        return _shallow(read_rows(expanded(source), name, split))
    if split is not None and not isinstance(source, Mapping):
        raise DataError(f"{name} has no splits", hint=f"leave split={split!r} out")
    return _rows_of_object(source, name, split)


def _shallow(rows: Iterator[Row]) -> Iterator[Row]:
    for where, row in rows:
        check_depth(row, where)
        yield where, row


def _rows_of_object(source: Any, name: str, split: str | None) -> Iterator[Row]:
    if isinstance(source, Mapping):
        source = _of_mapping(source, name, split)
    listed = _listed(source)
    if not isinstance(listed, Iterable) or isinstance(listed, str | bytes):
        raise DataError(
            f"{name} is a {type(source).__name__}, which has no rows",
            hint="give a list of dictionaries, a Dataset, a DataFrame or a path",
        )
    bounded = hasattr(listed, "__len__")
    for at, row in enumerate(listed):
        where = f"{name}[{at}]"
        if not bounded and at >= MOST_OF_A_STREAM:
            raise DataError(
                f"the stream goes on after {MOST_OF_A_STREAM:,} rows",
                where=name,
                hint="give its beginning, such as stream.take(1000), or max_prompts=1000",
            )
        if not isinstance(row, Mapping):
            raise DataError(
                f"it is {str(row)[:40]!r}, of type {type(row).__name__}, and others are rows",
                where=where,
                hint='write rows such as {"prompt": "..."}',
            )
        check_depth(row, where)
        yield where, {str(key): plain_value(value) for key, value in row.items()}


def _listed(source: Any) -> Any:
    """A table as a list of dictionaries, a data set in plain Python values; others as they are."""
    if hasattr(source, "to_dicts"):  # polars
        return source.to_dicts()
    if hasattr(source, "to_pylist"):  # pyarrow
        return source.to_pylist()
    if hasattr(source, "columns") and hasattr(source, "to_dict"):  # pandas
        return [
            {key: present(value) for key, value in row.items()} for row in source.to_dict("records")
        ]
    if hasattr(source, "column_names") and hasattr(source, "with_format"):  # datasets
        return source.with_format(None)
    return source


def _of_mapping(source: Mapping[str, Any], name: str, split: str | None) -> Any:
    """One split of several data sets, or rows from columns."""
    if source and all(hasattr(each, "column_names") for each in source.values()):
        if split is None and len(source) > 1:
            first = next(iter(source))
            raise DataError(
                f"{name} holds several splits: {', '.join(map(str, source))}",
                hint=f"give one of them, such as {name}[{first!r}]",
            )
        chosen = next(iter(source)) if split is None else split
        if chosen not in source:
            raise DataError(
                f"{name} has no split '{chosen}'", hint=f"there are: {', '.join(map(str, source))}"
            )
        return source[chosen]
    if {"role", "content"} <= source.keys():
        raise DataError(
            f"{name} is one message", hint='write [[{"role": "user", "content": "..."}]]'
        )
    columns = {key: list(values) for key, values in source.items() if is_column(values)}
    sizes = {key: len(values) for key, values in columns.items()}
    if len(columns) != len(source) or len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{key} {sizes.get(key, 'no list')}" for key in source)
        raise DataError(
            f"{name} is a mapping whose values are not columns of one length: {lengths}",
            hint='write {"prompt": [...], ...}, or a list of rows',
        )
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def is_column(values: Any) -> bool:
    return isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping)

"""Draws in a file: JSON lines or Parquet, one record per draw."""

from __future__ import annotations

import contextlib
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.cli.console.output import json_text
from posteriori.distributed.world import is_first
from posteriori.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from posteriori.core.types import Draws

_SHARE = 20
_FORMATS = (".jsonl", ".parquet")


def check_output(path: Path) -> None:
    """Raise `ConfigError` before any work where the file could not be written."""
    if path.suffix not in _FORMATS:
        raise ConfigError(
            f"the draws cannot go to '{path}'", where="--output", hint="name a .jsonl or .parquet"
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"there is no directory '{path.parent}'", where="--output", hint="make it first"
        )
    if path.suffix == ".parquet":
        _pyarrow()


def write_draws(path: Path, draws: Draws) -> None:
    """The whole file or none of it. Log-weights of zero weight are null in JSON. Parquet's texts
    are UTF-8, which has no halves of surrogate pairs: they become question marks there."""
    from posteriori.core.journal.files import flush, replacing, writing

    rows = records(draws)
    with writing("the draws", path), replacing(path) as incoming:
        if path.suffix == ".jsonl":
            with incoming.open("w", encoding="utf-8") as file:
                for row in rows:
                    finite = {key: _null(value) for key, value in row.items()}
                    file.write(json_text(finite) + "\n")
        else:
            arrow, parquet = _pyarrow()
            parquet.write_table(arrow.Table.from_pylist([_utf8(row) for row in rows]), incoming)
        flush(incoming)


class Kept:
    """Writes a run's finished draws to `path` as it goes, so that a kill loses at most the last of
    them.

    The file holds all of them each time; that it takes no more than a twentieth of the run's time,
    the next writing waits for twenty times as long as the last one took. A disk that is full does
    not stop the run: it is said in the end, and the draws may go elsewhere by then. In a run that
    is resumed, nothing is written before there are more draws than the file holds.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self._least = _number_of(path) if resume else 0
        self._parts: list[Draws] = []
        self._next = 0.0

    def __call__(self, draws: Draws) -> None:
        from posteriori.core.types import Draws as AllDraws

        if not is_first():
            return
        self._parts.append(draws)
        start = time.monotonic()
        if start < self._next or sum(map(len, self._parts)) <= self._least:
            return
        with contextlib.suppress(CheckpointError):
            write_draws(self.path, AllDraws.concat(self._parts))
        self._next = time.monotonic() + _SHARE * (time.monotonic() - start)


def _number_of(path: Path) -> int:
    """Draws in a file that is there, whole or not; 0 where none is."""
    if not path.is_file():
        return 0
    if path.suffix == ".jsonl":
        return path.read_bytes().count(b"\n")
    arrow, parquet = _pyarrow()
    try:
        return parquet.read_metadata(path).num_rows
    except (OSError, arrow.ArrowException):
        return 0


def records(draws: Draws) -> list[dict[str, Any]]:
    """One dictionary per draw. `weight` is its share of its prompt's weight; logs are in nats."""
    from posteriori.core.rows_of_prompts import shares_of_prompts

    completions = draws.completions
    prompt_N = completions.prompt_index_N
    share_N = shares_of_prompts(completions, draws.log_weight)
    columns: dict[str, list[Any]] = {
        "prompt_index": prompt_N.tolist(),
        "prompt": draws.prompts,
        "completion": draws.texts,
        "completion_ids": draws.completion_ids,
        "ended": completions.ended_N.tolist(),
        "weight": share_N.tolist(),
        "log_weight": draws.log_weight.tolist(),
        "log_prior": draws.log_prior_N.tolist(),
        "log_evidence": draws.log_evidence_N.tolist(),
        "log_proposal": draws.log_proposal_N.tolist(),
        "reward": draws.reward_N.tolist(),
    }
    if draws.group_N is not None:
        columns["group"] = draws.group_N.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _utf8(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for key, value in row.items()
    }


def _null(value: Any) -> Any:
    """JSON has no infinities and no NaN."""
    infinite = isinstance(value, float) and (
        value != value or value in (float("inf"), -float("inf"))
    )
    return None if infinite else value


def _pyarrow() -> tuple[Any, Any]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed",
            where="--output",
            hint="pip install pyarrow, or name a .jsonl",
        ) from error
    return arrow, parquet

"""Draws in a file: JSON lines or Parquet, one record a draw."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .output import json_text

if TYPE_CHECKING:
    from ..types import Draws

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
    rows = records(draws)
    incoming = path.with_name(f".{path.name}.incoming")
    if path.suffix == ".jsonl":
        with incoming.open("w", encoding="utf-8") as file:
            for row in rows:
                finite = {key: _null(value) for key, value in row.items()}
                file.write(json_text(finite) + "\n")
    else:
        arrow, parquet = _pyarrow()
        parquet.write_table(arrow.Table.from_pylist([_utf8(row) for row in rows]), incoming)
    os.replace(incoming, path)


def records(draws: Draws) -> list[dict[str, Any]]:
    """One dictionary a draw. `weight` is its share of its prompt's weight; logs are in nats."""
    completions = draws.completions
    prompt_N = completions.prompt_index_N
    share_N = draws.log_weight.new_zeros(len(draws))
    for at in range(len(completions.prompt_set)):
        rows = prompt_N == at
        log_w_n = draws.log_weight[rows]
        if len(log_w_n) and not bool(log_w_n.isneginf().all()):
            share_N[rows] = log_w_n.softmax(0)
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

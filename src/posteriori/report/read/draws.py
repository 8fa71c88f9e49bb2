"""A file of draws that `posteriori sample` wrote, and what stands beside it, read back."""

from __future__ import annotations

import hashlib
import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from posteriori.core.occurrence import Prompt
from posteriori.errors import CheckpointError
from posteriori.runs.draw_records import MOST, Drawn, Record, rank_within

from .records import SampleRecord
from .run import broken

SUFFIXES = (".jsonl", ".parquet")
_HINT = "name a .jsonl or .parquet that `posteriori sample` wrote"


def about_path(path: Path) -> Path:
    """Where it says what the draws at `path` are: draws.jsonl.json for draws.jsonl."""
    return path.with_name(f"{path.name}.json")


def is_draws(path: Path) -> bool:
    """Whether `path` is meant to be a file of draws and not a run's folder."""
    return path.suffix in SUFFIXES and not path.is_dir()


class DrawsFile:
    """The draws at `path`: what they are, and the first of them, as many as a run keeps.

    Raises `CheckpointError` where the file or what stands beside it is missing or broken, and where
    they do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise CheckpointError(f"'{path}' does not exist", hint=_HINT)
        beside = about_path(path)
        if not beside.exists():
            raise CheckpointError(
                f"nothing says what the draws in '{path}' are: there is no '{beside.name}' "
                "beside it",
                hint="draw them by `posteriori sample`, and keep both files together",
            )
        try:
            self.about = SampleRecord.model_validate(json.loads(beside.read_bytes()))
        except (ValueError, RecursionError) as error:
            raise broken(beside, error) from error
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.about.draws_sha256:
            raise CheckpointError(
                f"the draws have changed since '{beside.name}' was written, so its figures are not "
                "theirs",
                where=str(path),
                hint="draw them again by `posteriori sample`",
            )
        self.drawn = Drawn.from_records(self._records())

    def _records(self) -> list[Record]:
        try:
            rows = _parquet(self.path) if self.path.suffix == ".parquet" else _lines(self.path)
            prompt_N = np.array([row["prompt_index"] for row in rows], dtype=int)
            chosen_K = np.lexsort((prompt_N, rank_within(prompt_N)))[:MOST]
            return [_RECORD.validate_python(_as_record(rows[at])) for at in chosen_K.tolist()]
        except ValidationError as error:
            raise broken(self.path, error) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise broken(self.path, ValueError(f"not a record of a draw: {error!r}")) from error


_RECORD = TypeAdapter(Record)


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise CheckpointError(
            "Parquet needs pyarrow, which is not installed",
            where=str(path),
            hint="pip install pyarrow, or draw into a .jsonl",
        ) from error
    return parquet.read_table(path).to_pylist()


def _as_record(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the file as a run keeps it. JSON lines have null for what is not finite: of a log
    that is a probability or evidence of zero, of a reward that there is none."""

    def log(name: str) -> float:
        return -math.inf if row[name] is None else row[name]

    prompt: Prompt = row["prompt"]
    return {
        "policy": "",
        "prompt_index": row["prompt_index"],
        "prompt": prompt,
        "completion": row["completion"],
        "ended": row["ended"],
        "log_prob": log("log_proposal"),
        "log_prior": log("log_prior"),
        "log_evidence": log("log_evidence"),
        "reward": math.nan if row["reward"] is None else row["reward"],
        "weight": row["weight"],
    }

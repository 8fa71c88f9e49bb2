"""A run's folder, read back: everything that a report says comes from these files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from posteriori.errors import CheckpointError
from posteriori.report.result import Curve
from posteriori.runs.directory import read_metrics
from posteriori.runs.draw_records import Drawn, Record

from .records import CurveRecord, DuringTraining, RunRecord

_T = TypeVar("_T")


class RunFiles:
    """What the folder at `path` holds; what is missing there is empty or None.

    A run that was stopped has no evaluation. Raises `CheckpointError` where the folder is missing,
    is no run (neither versions.json nor evaluation.json), or holds a file that is not what its name
    says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            what = "is a file, not a run's folder" if path.exists() else "does not exist"
            raise CheckpointError(f"'{path}' {what}", hint=_HINT)
        # A model's folder has a config.json as well.
        if not any((path / name).exists() for name in ("versions.json", "evaluation.json")):
            raise CheckpointError(
                f"'{path}' is not a run: it has neither versions.json nor evaluation.json",
                hint=_HINT,
            )
        self.config = self._json("config.json", dict[str, Any]) or {}
        self.versions = self._json("versions.json", dict[str, Any]) or {}
        self.run = self._json("evaluation.json", RunRecord)
        self.history = self._history(path / "metrics.jsonl")
        self.evaluations = [
            (each.step, {name: one.estimate for name, one in each.figures.items()})
            for each in self._lines("evaluations.jsonl", DuringTraining)
        ]
        curve = self._json("frontier.json", CurveRecord)
        self.curve: Curve | None = None if curve is None else curve.curve
        records: dict[str, list[Record]] = {}
        for record in self._lines("samples.jsonl", Record):
            records.setdefault(record.policy, []).append(record)
        self.drawn = {name: Drawn.from_records(found) for name, found in records.items()}

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def _json(self, name: str, kind: type[_T]) -> _T | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            return TypeAdapter(kind).validate_python(json.loads(path.read_bytes()))
        except (ValueError, RecursionError) as error:
            raise broken(path, error) from error

    def _lines(self, name: str, kind: type[_T]) -> list[_T]:
        path, adapter = self.path / name, TypeAdapter(kind)
        if not path.exists():
            return []
        try:
            return [adapter.validate_python(line) for line in read_metrics(path)]
        except (ValueError, RecursionError) as error:
            raise broken(path, error) from error

    def _history(self, path: Path) -> list[dict[str, Any]]:
        try:
            lines = read_metrics(path) if path.exists() else []
        except ValueError as error:
            raise broken(path, error) from error
        for number, line in enumerate(lines, start=1):
            if not isinstance(line, dict):
                raise broken(path, ValueError(f"line {number} is not an object"))
        return lines


_HINT = "name a folder that `posteriori fit` or `posteriori demo` wrote"


def broken(path: Path, error: Exception) -> CheckpointError:
    """What to raise for a file that is not what its name says."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        what = f"{first['msg']} at '{place}'" if place else first["msg"]
    else:
        what = f"{error}"
    return CheckpointError(
        f"cannot be read: {what}",
        where=str(path),
        hint="restore the file, or remove it to report on the run without it",
    )

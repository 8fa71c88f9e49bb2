"""A run's directory as the processes see it that do not write there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posteriori.distributed.exchange import by_first

from .directory import RunDirectory


class FollowedDirectory(RunDirectory):
    """Of several processes the first one has a `RunDirectory`, with its lock; the others have this.

    It reads and writes nothing: what was restored is what the first process has restored.
    """

    writes = False

    def __init__(self, path: Path, name: str) -> None:
        self._places(path)
        self.name, self.notes = name, []
        self._lines: Mapping[str, list[dict[str, Any]]] = {"metrics": [], "evaluations": []}

    def close(self) -> None:
        pass

    def metrics(self) -> list[dict[str, Any]]:
        return list(self._lines["metrics"])

    def evaluations(self) -> list[dict[str, Any]]:
        return list(self._lines["evaluations"])

    def restore(self, history: Mapping[str, list[dict[str, Any]]]) -> None:
        self._lines = history

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        pass

    def append_evaluation(self, line: Mapping[str, Any]) -> None:
        pass

    def flush(self) -> None:
        pass


def opened(
    path: Path, config: Mapping[str, Any], target: Mapping[str, str], *, resume: bool
) -> RunDirectory:
    """The run's directory, for each process: raises in all of them what the first one meets."""
    held: list[RunDirectory] = []

    def take() -> str:
        held.append(RunDirectory(path, config, target, resume=resume))
        return held[0].name

    name = by_first(take)
    return held[0] if held else FollowedDirectory(path, name)

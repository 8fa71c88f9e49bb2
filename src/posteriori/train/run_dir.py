"""A run directory: config, versions, metrics and evaluations as JSON lines, checkpoints, policy.

Files are written so that a kill at any moment leaves a directory that can be read and resumed:
whole files and folders appear under their name only when complete, and a metrics line that was cut
short is dropped when the run goes on.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError

if TYPE_CHECKING:
    from ..types import Estimate, Finding

_PACKAGES = ("posteriori", "torch", "transformers", "peft", "accelerate", "numpy")


class RunDirectory:
    """`path` holds config.json, versions.json, metrics.jsonl, evaluations.jsonl, checkpoints/ and
    policy/; the command line adds evaluation.json and report.html.

    Raises `CheckpointError` when the directory already holds a run and `resume` is false, or when
    it holds another run than the one being resumed.
    """

    def __init__(self, path: Path | str, config: Mapping[str, Any], *, resume: bool) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics_file = self.path / "metrics.jsonl"
        self.evaluations_file = self.path / "evaluations.jsonl"
        self.config_file = self.path / "config.json"
        if not resume:
            refuse_taken(self.path)
        elif self.config_file.exists():
            self._check_same(config)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"the run cannot be kept in '{self.path}': {error.strerror}",
                hint="choose another output_dir",
            ) from error
        write_whole(self.config_file, json.dumps(config, indent=2) + "\n")
        write_whole(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def last_policy(self) -> Path:
        """The policy at the end of the run, where an earlier one is in `policy`."""
        return self.path / "policy-last"

    def metrics(self) -> list[dict[str, Any]]:
        """The lines that are whole, in order."""
        return read_metrics(self.metrics_file) if self.metrics_file.exists() else []

    def keep_metrics_before(self, step: int) -> list[dict[str, Any]]:
        """Drop the lines of steps that a resumed run will make again; returns what stays."""
        return _keep(self.metrics_file, [line for line in self.metrics() if line["step"] < step])

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        _append(self.metrics_file, line)

    def keep_evaluations_until(self, step: int) -> list[dict[str, Any]]:
        """As `keep_metrics_before`: the evaluation after `step` steps belongs to them."""
        if not self.evaluations_file.exists():
            return []
        found = read_metrics(self.evaluations_file)
        return _keep(self.evaluations_file, [line for line in found if line["step"] <= step])

    def append_evaluation(self, line: Mapping[str, Any]) -> None:
        _append(self.evaluations_file, line)

    def _check_same(self, config: Mapping[str, Any]) -> None:
        try:
            before = json.loads(self.config_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"not JSON: {error}",
                where=str(self.config_file),
                hint="choose another output_dir",
            ) from error
        now = json.loads(json.dumps(config))
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                raise CheckpointError(
                    f"'{self.path}' was made with {key} = {before.get(key)!r}, "
                    f"and this run has {now.get(key)!r}",
                    hint="resume with the same settings, or choose another output_dir",
                )


def refuse_taken(path: Path) -> None:
    """Raise `CheckpointError` where `path` already holds a run."""
    if (path / "config.json").exists():
        raise CheckpointError(
            f"'{path}' already holds a run",
            hint="resume it (resume=True, --resume) or choose another output_dir",
        )


def _keep(path: Path, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
    return lines


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(jsonable(line)) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut short by a kill is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise CheckpointError(
                f"line {number} is not JSON: {error}", where=str(path), hint="delete that line"
            ) from error
    return found


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either the old or the new one, whenever the process dies."""
    incoming = path.with_name(f".{path.name}.incoming")
    with incoming.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(incoming, path)


def jsonable(value: Any) -> Any:
    """JSON has no infinities: they become the strings "inf", "-inf" and "nan"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """An estimate for programs; infinities and NaN are still numbers."""
    return {
        "value": estimate.value,
        "standard_error": estimate.standard_error,
        "standard_error_new_prompts": estimate.standard_error_new_prompts,
        "kind": estimate.kind,
        "num_draws": estimate.num_draws,
        "per_prompt": [
            {"value": each.value, "standard_error": each.standard_error}
            for each in estimate.per_prompt
        ],
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level,
        "name": finding.name,
        "message": finding.message,
        "hint": finding.hint,
    }


def versions() -> dict[str, str]:
    """What the run was made with."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found

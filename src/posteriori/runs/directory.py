"""A run directory: config, versions, metrics and evaluations as JSON lines, checkpoints, policy.

Files are written so that a kill at any moment leaves a directory that can be read and resumed:
whole files and folders appear under their name only when complete, and a metrics line that was cut
short is dropped when the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.core.journal.files import append_line, flush, writing
from posteriori.core.journal.files import write_whole as write_whole
from posteriori.core.journal.lock import Lock
from posteriori.data.formats.json_object import read_object
from posteriori.errors import CheckpointError

if TYPE_CHECKING:
    from posteriori.core.types import Estimate, Finding

_PACKAGES = ("posteriori", "torch", "transformers", "peft", "accelerate", "numpy")


class RunDirectory:
    """`path` holds config.json, target.json, versions.json, metrics.jsonl, evaluations.jsonl,
    checkpoints/ and policy/; the command line adds evaluation.json and report.html.

    `target` is what the run's target is made of, by `fingerprint`. The directory is locked until
    `close`. `notes` are what its owner should hear.

    Raises `CheckpointError` when the directory already holds a run, or what is left of one, and
    `resume` is false; when it holds another run than the one being resumed; and while another
    process writes to it.
    """

    writes = True
    """Whether this process is the one that writes there."""

    def __init__(
        self,
        path: Path | str,
        config: Mapping[str, Any],
        target: Mapping[str, str] | None = None,
        *,
        resume: bool,
    ) -> None:
        self._places(Path(path))
        self.notes: list[str] = []
        target = dict(target or {})
        if not resume:
            refuse_taken(self.path)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(self.path)
        except OSError as error:
            raise CheckpointError(
                f"the run cannot be kept in '{self.path}': {error.strerror}",
                hint="choose another output_dir",
            ) from error
        try:
            if not self.lock.is_held:
                self.notes.append(
                    f"the file system of '{self.path}' has no locks: see to it that no other run "
                    "writes there"
                )
            if not resume:
                refuse_taken(self.path)
            elif self.config_file.exists():
                self._check_same(config, target)
            else:
                refuse_leftovers(self.path)
            # config.json comes last: with it the directory holds a run.
            write_whole(self.target_file, json.dumps(target, indent=2) + "\n")
            self._write_versions()
            write_whole(self.config_file, json.dumps(config, indent=2) + "\n")
        except BaseException:
            self.close()
            raise
        what = {key: value for key, value in config.items() if key not in _HOW_ALONE}
        self.name = hashlib.sha256(json.dumps([what, target], sort_keys=True).encode()).hexdigest()

    def _places(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics_file = path / "metrics.jsonl"
        self.evaluations_file = path / "evaluations.jsonl"
        self.config_file = path / "config.json"
        self.target_file = path / "target.json"

    def close(self) -> None:
        """Let another process write here."""
        self.lock.release()

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

    def restore(self, history: Mapping[str, list[dict[str, Any]]]) -> None:
        """Put the lines back that a checkpoint kept; those of later steps will be made again."""
        for path, name in ((self.metrics_file, "metrics"), (self.evaluations_file, "evaluations")):
            if history[name] or path.exists():
                _keep(path, history[name])

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        append_line(self.metrics_file, json.dumps(jsonable(line)))

    def evaluations(self) -> list[dict[str, Any]]:
        """As `metrics`, of the evaluations on the way."""
        return read_metrics(self.evaluations_file) if self.evaluations_file.exists() else []

    def append_evaluation(self, line: Mapping[str, Any]) -> None:
        append_line(self.evaluations_file, json.dumps(jsonable(line)))

    def flush(self) -> None:
        """The lines go to the disk: no checkpoint may be ahead of them after a power cut."""
        for path in (self.metrics_file, self.evaluations_file):
            if path.exists():
                with writing("the lines", path):
                    flush(path)

    def _write_versions(self) -> None:
        path, now = self.path / "versions.json", versions()
        try:
            before = read_object(path)
        except (OSError, ValueError):
            before = now
        other = [name for name, each in now.items() if before.get(name) != each]
        if other:
            self.notes.append(
                "this run was begun with other versions: "
                + ", ".join(f"{name} {before.get(name)}, now {now[name]}" for name in other)
                + "; it may end with other weights than it would have with them"
            )
        write_whole(path, json.dumps(now, indent=2) + "\n")

    def _check_same(self, config: Mapping[str, Any], target: Mapping[str, str]) -> None:
        before, now = _object(self.config_file), json.loads(json.dumps(config))
        for key in sorted({*before, *now}):
            if key not in _HOW_ALONE and before.get(key) != now.get(key):
                raise CheckpointError(
                    f"'{self.path}' was made with {key} = {before.get(key)!r}, "
                    f"and this run has {now.get(key)!r}",
                    hint="resume with the same settings, or choose another output_dir",
                )
        made_with = _object(self.target_file)
        changed = [
            part for part in {**made_with, **target} if made_with.get(part) != target.get(part)
        ]
        if changed:
            raise CheckpointError(
                f"'{self.path}' was made for another target: {', '.join(changed)} "
                f"{'has' if len(changed) == 1 else 'have'} changed",
                hint="resume with what the run began with, or choose another output_dir",
            )


_HOW_ALONE = frozenset(("sharding", "gradient_checkpointing"))
"""Settings that say where numbers are kept while they are computed, and change none."""


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        why = "it is missing" if isinstance(error, FileNotFoundError) else f"not JSON: {error}"
        raise CheckpointError(
            f"nothing says what this run is: {why}",
            where=str(path),
            hint="choose another output_dir",
        ) from error


def refuse_taken(path: Path) -> None:
    """Raise `CheckpointError` where `path` already holds a run, or what is left of one."""
    if (path / "config.json").exists():
        raise CheckpointError(
            f"'{path}' already holds a run",
            hint="resume it (resume=True, --resume), remove it (overwrite=True, --overwrite) or "
            "choose another output_dir",
        )
    refuse_leftovers(path)


def refuse_leftovers(path: Path) -> None:
    """Raise `CheckpointError` for what a run has left where no config.json says which run."""
    names = ("checkpoints", "policy", "policy-last", "metrics.jsonl", "evaluations.jsonl")
    for name in names:
        left = path / name
        if left.is_dir() and not any(left.iterdir()):
            continue
        if left.exists():
            raise CheckpointError(
                f"'{path}' holds '{name}' of a run, and no config.json says of which",
                hint=f"remove '{name}', or choose another output_dir",
            )


def _keep(path: Path, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut short by a kill is left out."""
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            found.append(_record(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise CheckpointError(
                f"line {number} is not JSON: {error}", where=str(path), hint="delete that line"
            ) from error
    return found


def _record(line: bytes) -> dict[str, Any]:
    record = json.loads(line.decode("utf-8"))
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


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

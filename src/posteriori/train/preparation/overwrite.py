"""`overwrite=True`: the files of an earlier run go, and nothing else in its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from posteriori.core.journal.lock import Lock
from posteriori.errors import CheckpointError

_FILES = (
    *("config.json", "target.json", "versions.json", "metrics.jsonl", "evaluations.jsonl"),
    *("evaluation.json", "samples.jsonl", "frontier.json", "report.html"),
)
_FOLDERS = (
    *("checkpoints", "policy", "policy-last", "budget.unfinished"),
    "evaluation.unfinished",
)


def remove_run(folder: Path) -> None:
    """Remove what a run has left in `folder`, if it holds one.

    Raises `CheckpointError` where it holds files and none of them is a run's config, and while
    another process writes there.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"'{folder}' holds files and no run, so there is nothing to overwrite",
            hint="choose another output_dir, or empty it yourself",
        )
    lock = Lock(folder)
    try:
        for name in _FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
    finally:
        lock.release()

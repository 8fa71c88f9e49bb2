"""Where a run keeps its policy."""

from __future__ import annotations

from pathlib import Path


def policy_of_run(place: Path) -> Path | None:
    """The folder of the policy in a run's directory; None for a directory that is no run's."""
    inside = place / "policy"
    return inside if (place / "metrics.jsonl").is_file() and inside.is_dir() else None

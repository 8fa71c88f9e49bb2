"""Settings and versions of one or several runs: what they share, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posteriori.report.safe_text import visible

_MISSING = "not set"


def settings(
    runs: Mapping[str, Mapping[str, Any]],
) -> tuple[list[tuple[str, str]], list[tuple[str, list[str]]]]:
    """What all runs share, and what differs with one value per run."""
    columns = [dict(flat(each)) for each in runs.values()]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = [(key, [column.get(key, _MISSING) for column in columns]) for key in keys]
    shared = [(key, values[0]) for key, values in rows if len(set(values)) == 1]
    return shared, [(key, values) for key, values in rows if len(set(values)) > 1]


def versions(runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each package's version; where the runs differ, the versions in their order."""
    shared, differing = settings({name: each for name, each in runs.items() if each})
    return shared + [(key, " | ".join(values)) for key, values in differing]


def flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as `a.b` or `a.0.b` and their values, the way `--set a.b=c` writes them."""
    rows = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and value and all(isinstance(e, Mapping) for e in value):
            value = {str(at): each for at, each in enumerate(value)}
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{name}.")
        else:
            shown = _MISSING if value is None else str(value)
            rows.append((visible(name, 200), visible(shown, 1000)))
    return rows

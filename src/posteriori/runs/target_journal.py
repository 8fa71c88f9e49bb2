"""The journal of a target's work."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from posteriori.core.hooks import CountsCalls, FittedEvidence, those
from posteriori.core.journal.journal import Journal
from posteriori.core.target import Target
from posteriori.errors import ConfigError

from .target_fingerprint import fingerprint


@contextmanager
def keeping(
    target: Target,
    path: Path | str | None,
    about: Callable[[], Mapping[str, Any]],
    *,
    resume: bool,
    fits_moments: bool = True,
    on_note: Callable[[str], None] = warnings.warn,
) -> Iterator[Journal | None]:
    """Work on `target` inside is kept in the folder `path`, piece by piece, and taken from there
    where `resume` is true; nothing is kept where `path` is None.

    `about` says what the work depends on beside the target. The folder stays: the caller removes it
    once the result is elsewhere (`Journal.remove`). Moments are fitted first, unless it is they
    that are. Raises `CheckpointError` as
    `Journal` does.
    """
    if path is None:
        if resume:
            raise ConfigError("resume=True needs the journal of the run to resume")
        yield None
        return
    journal = Journal(path, {**about(), **fingerprint(target), **_versions()}, resume=resume)
    callers = [each for one in those(target.evidence, CountsCalls) for each in one.callers]
    try:
        with journal.keeping(target.prior.decode, callers):
            if fits_moments:
                # By then what they have to say of themselves is known, whatever is done again.
                for each in target.evidence:
                    if isinstance(each, FittedEvidence):
                        _ = each.fitted
            yield journal
    finally:
        journal.close()
        for note in journal.notes:
            on_note(note)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("posteriori", "torch", "transformers"):
        try:
            found[f"the version of {name}"] = version(name)
        except PackageNotFoundError:
            found[f"the version of {name}"] = "not installed as a package"
    return found

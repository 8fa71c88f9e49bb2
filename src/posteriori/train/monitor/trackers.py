"""TensorBoard, W&B, trackio and MLflow, through accelerate."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from posteriori.core.seeds import undisturbed
from posteriori.core.settings.training import TrackerName
from posteriori.errors import ConfigError

_PROJECT = "posteriori"


class Trackers:
    """Sends each step's record, and each evaluation as `evaluation/...`, to every tracker.

    What they log is numbers by step; the run's config goes with them. TensorBoard writes into
    `trackers/` in the run's folder. What they have to say goes to standard error: standard output
    is for results. Raises `ConfigError` where a tracker cannot be started, or refuses what it is
    given.
    """

    def __init__(
        self,
        names: Sequence[TrackerName],
        output_dir: Path | None,
        config: Mapping[str, Any],
        *,
        cpu: bool,
    ) -> None:
        self.names = tuple(names)
        folder = None if output_dir is None else str(output_dir / "trackers")
        self.accelerator = Accelerator(cpu=cpu, log_with=list(names), project_dir=folder)
        with self._typed("cannot be started", "mend it, or leave the tracker out"):
            self.accelerator.init_trackers(_PROJECT, config=_flat(config))

    def step(self, record: Mapping[str, Any]) -> None:
        """One step's record."""
        self._log(_numbers(record), record["step"])

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """One evaluation's values."""
        values = {
            f"evaluation/{name}": float(figure["value"])
            for name, figure in line.items()
            if isinstance(figure, Mapping)
        }
        self._log(values, line["step"])

    def finish(self) -> None:
        """Write out what is left."""
        with self._typed("cannot end", "look into what it has written"):
            self.accelerator.end_training()
            if "trackio" in self.names:
                # accelerate ends the run, and trackio would end it once more when Python exits.
                import_module("trackio").finish()

    def _log(self, values: dict[str, float], step: int) -> None:
        with self._typed(f"cannot log step {step}", "mend it, and go on with resume"):
            self.accelerator.log(values, step=step)

    @contextmanager
    def _typed(self, failed: str, hint: str) -> Iterator[None]:
        try:
            with undisturbed(), redirect_stdout(_ToStderr()):
                yield
        except Exception as error:  # each tracker has a service and errors of its own
            raise ConfigError(
                f"{', '.join(self.names)} {failed}: {error}", where="fit: tracker", hint=hint
            ) from error


class _ToStderr(io.TextIOBase):
    """Not standard error itself: W&B puts a wrapper around both streams, and one in two places
    would be wrapped twice."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name != "step" and _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Trackers take plain values; what is nested goes as JSON, what is unset is left out."""
    plain = {name: value for name, value in config.items() if value is not None}
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in plain.items()
    }

"""TensorBoard, W&B, trackio and MLflow, through accelerate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..config import TrackerName
from ..errors import ConfigError
from ..seeds import undisturbed

_PROJECT = "posteriori"


class Trackers:
    """Sends each step's record, and each evaluation as `evaluation/...`, to every tracker.

    What they log is numbers by step; the run's config goes with them. TensorBoard writes into
    `trackers/` in the run's folder. Raises `ConfigError` where a tracker cannot be started.
    """

    def __init__(
        self,
        names: Sequence[TrackerName],
        output_dir: Path | None,
        config: Mapping[str, Any],
        *,
        cpu: bool,
    ) -> None:
        folder = None if output_dir is None else str(output_dir / "trackers")
        self.accelerator = Accelerator(cpu=cpu, log_with=list(names), project_dir=folder)
        try:
            with undisturbed():
                self.accelerator.init_trackers(_PROJECT, config=_flat(config))
        except Exception as error:  # each tracker has a service and errors of its own
            raise ConfigError(
                f"{', '.join(names)} cannot be started: {error}",
                where="fit: tracker",
                hint="mend it, or leave the tracker out",
            ) from error

    def step(self, record: Mapping[str, Any]) -> None:
        """One step's record."""
        self.accelerator.log(_numbers(record), step=record["step"])

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """One evaluation's values."""
        values = {
            f"evaluation/{name}": float(figure["value"])
            for name, figure in line.items()
            if isinstance(figure, Mapping)
        }
        self.accelerator.log(values, step=line["step"])

    def finish(self) -> None:
        """Write out what is left."""
        self.accelerator.end_training()


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

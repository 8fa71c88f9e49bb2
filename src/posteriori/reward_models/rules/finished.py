"""Rules that are trained already, read back so that a stopped run goes on after them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from posteriori.core.journal.files import write_whole, writing
from posteriori.core.settings.training import FitRewardConfig
from posteriori.core.types import Finding
from posteriori.data.formats.json_lines import json_object, text_lines
from posteriori.data.formats.json_object import read_object
from posteriori.errors import CheckpointError
from posteriori.reward_models.calibration import HeldOut
from posteriori.reward_models.fit_reward import RewardFit
from posteriori.reward_models.reward_model import RewardModel
from posteriori.reward_models.reward_trainer import Record
from posteriori.reward_models.writer import METRICS, new_directory
from posteriori.runs.target_fingerprint import digest

ABOUT, _BEGUN = "rules.json", "unfinished.json"


def check_place(place: Path, *, resume: bool) -> None:
    """Raises `CheckpointError` where something is that is not an unfinished run to be resumed."""
    if not (place / _BEGUN).is_file():
        new_directory(place)
    elif not resume:
        raise CheckpointError(
            f"'{place}' holds an unfinished run",
            hint="go on with it (resume=True, --resume), or choose another output directory",
        )


def begin(place: Path, what: Any, *, resume: bool) -> None:
    """Note what the run at `place` is made from. Raises `CheckpointError` where something else is,
    or where a run that is to be resumed was made from other labels or settings."""
    check_place(place, resume=resume)
    begun = place / _BEGUN
    mine = digest(what)
    if not begun.is_file():
        with writing("the rules", place, "choose another output directory"):
            place.mkdir(parents=True, exist_ok=True)
            write_whole(begun, json.dumps({"made_from": mine}) + "\n")
    elif read_object(begun).get("made_from") != mine:
        raise CheckpointError(
            f"the run in '{place}' was begun with another model, other labels or other settings",
            hint="give those again, or choose another output directory",
        )


def end(place: Path, about: dict[str, Any]) -> None:
    """The run at `place` is whole."""
    with writing("the rules", place):
        write_whole(place / ABOUT, json.dumps(about, indent=2) + "\n")
        (place / _BEGUN).unlink()


def finished(place: Path) -> RewardFit | None:
    """What `fit_reward` returned when it wrote to `place`; None where it has not ended."""
    file = place / "reward.json"
    about = read_object(file) if file.is_file() else {}
    if not about.get("finished"):
        return None
    return RewardFit(
        model=RewardModel.load(place),
        history=_records(place / METRICS),
        held_out=TypeAdapter(HeldOut).validate_python(about["held_out"]),
        train_loss=float(about["train_loss"]),
        num_train=int(about["num_train"]),
        settings=FitRewardConfig.model_validate(about["settings"]),
        prior_precision=about["prior_precision"],
        findings=TypeAdapter(list[Finding]).validate_python(about["findings"]),
        output_dir=place,
    )


def _records(metrics: Path) -> list[Record]:
    """Those of the steps; a head that is solved for has none."""
    if not metrics.is_file():
        return []
    return [json_object(line, f"{metrics}:{number}") for number, line in text_lines(metrics)]

"""What a run of `fit_reward` leaves on disk while it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from posteriori.core.journal.files import append_line, save_folder, write_whole, writing
from posteriori.core.settings.training import FitRewardConfig
from posteriori.errors import CheckpointError
from posteriori.runs.directory import jsonable

from .backbone import Backbone
from .head_posterior import HeadPosterior
from .reward_model import RewardModel
from .reward_trainer import Record

CHECKPOINT, METRICS, JOURNAL = "checkpoint", "metrics.jsonl", "unfinished"


def new_directory(path: str | Path, *, resume: bool = False) -> Path:
    """The path, if nothing is there yet, or an unfinished run that is to be resumed. Raises
    `CheckpointError` where something else is."""
    place = Path(path)
    unfinished = (place / JOURNAL).is_dir()
    if resume and unfinished:
        return place
    if unfinished:
        raise CheckpointError(
            f"'{place}' is not empty: it holds an unfinished run",
            hint="go on with it (resume=True, --resume), or choose another output directory",
        )
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise CheckpointError(
            f"'{place}' is not empty" if place.is_dir() else f"'{place}' is a file",
            hint="choose another output directory: a trained model is never overwritten",
        )
    return place


class Writer:
    """Metrics line by line, and the best model so far: a run cut short keeps what it has."""

    def __init__(
        self,
        place: Path | None,
        backbone: Backbone,
        settings: FitRewardConfig,
        on_step: Callable[[Record], None] | None,
    ) -> None:
        self.place, self.backbone, self.settings, self.on_step = place, backbone, settings, on_step
        if place is not None:
            with writing("the reward model", place, "choose another output directory"):
                place.mkdir(parents=True, exist_ok=True)

    def resume(self, history: Sequence[Record]) -> None:
        """The records of the steps that are not made again."""
        if self.place is not None:
            lines = "".join(json.dumps(jsonable(record)) + "\n" for record in history)
            write_whole(self.place / METRICS, lines)

    def step(self, record: Record) -> None:
        if self.place is not None:
            append_line(self.place / METRICS, json.dumps(jsonable(record)))
        if self.on_step is not None:
            self.on_step(record)

    def best(self, heads_KD: torch.Tensor) -> None:
        """The best model so far, under its name only when it is whole."""
        if self.place is None:
            return
        nowhere_D = torch.zeros(heads_KD.shape[1], dtype=torch.float64)
        model = RewardModel(self.backbone, HeadPosterior.from_members(heads_KD, nowhere_D))
        incoming, kept = self.place / f".{CHECKPOINT}", self.place / CHECKPOINT
        about = {"finished": False, "settings": self.settings.recorded()}
        hint = "make room; the best model before it is whole"
        with writing("the best model so far", kept, hint):
            shutil.rmtree(incoming, ignore_errors=True)
            try:
                model.save_pretrained(incoming, about=about)
            except BaseException:
                shutil.rmtree(incoming, ignore_errors=True)
                raise
            before = self.place / f".{CHECKPOINT}-before"
            shutil.rmtree(before, ignore_errors=True)
            if kept.exists():
                kept.rename(before)
            incoming.rename(kept)
            shutil.rmtree(before, ignore_errors=True)

    def finish(self, model: RewardModel, about: Mapping[str, Any]) -> None:
        if self.place is None:
            return
        merge = self.settings.merge
        save_folder(self.place, lambda to: model.save_pretrained(to, merge=merge, about=about))
        if (self.place / CHECKPOINT).exists():
            shutil.rmtree(self.place / CHECKPOINT)

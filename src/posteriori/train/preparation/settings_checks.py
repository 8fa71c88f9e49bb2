"""What can be wrong with a run's settings before torch, or anything else, is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from posteriori.core.settings.training import FitConfig, TrackerName, budget_of
from posteriori.errors import ConfigError


def check_idle(settings: FitConfig, *, held_out: bool, keeps: bool) -> None:
    """Raises `ConfigError` for what does nothing without another setting: without
    `evaluate_every`, a budget, a LoRA policy, or a folder that checkpoints are kept in."""
    looks, budget = (
        settings.evaluate_every > 0,
        budget_of(settings.kl_budget, settings.reward_target) is not None,
    )
    idle = {
        "held_out": (held_out and not looks, "evaluate_every"),
        "evaluate_samples": (settings.evaluate_samples is not None and not looks, "evaluate_every"),
        "on_finding": (settings.on_finding == "stop" and not looks, "evaluate_every"),
    }
    held = dict(settings)
    for name, there, needed in (
        ("budget_samples", budget, "kl_budget or reward_target"),
        ("budget_stages", budget, "kl_budget or reward_target"),
        ("first_rate", settings.learning_rate == "auto", 'learning_rate = "auto"'),
        ("lora", settings.policy == "lora", 'policy = "lora"'),
        ("checkpoint_every", keeps, "output_dir"),
        ("keep_checkpoints", keeps, "output_dir"),
    ):
        changed = held[name] != FitConfig.model_fields[name].default
        idle[name] = (changed and not there, needed)
    for name, (is_idle, needed) in idle.items():
        if is_idle:
            raise ConfigError(
                f"{name} does nothing without {needed}",
                where="fit",
                hint=f"set {needed}, or remove {name}",
            )


def check_trackers(names: Sequence[TrackerName], output_dir: Path | str | None) -> None:
    """Raises `ConfigError` where a tracker is not installed, or has nowhere to write."""
    for name in names:
        spec = importlib.util.find_spec(name)
        # A folder of that name, such as W&B leaves where it runs, is found without an origin.
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"the tracker '{name}' is not installed",
                where="fit: tracker",
                hint=f"pip install 'posteriori[{name}]'",
            )
    if "tensorboard" in names and output_dir is None:
        raise ConfigError(
            "tensorboard writes into the run's folder, and there is none",
            where="fit: tracker",
            hint="give an output_dir",
        )

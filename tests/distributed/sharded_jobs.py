"""What processes do with weights that are cut over them (FSDP2)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from jobs import target, trained, worth

import posteriori as po
from posteriori.distributed.sharding import whole
from posteriori.train.update import Updater

SEVERAL = int(os.environ.get("WORLD_SIZE", "1")) > 1
SHARDING: Any = "fsdp" if SEVERAL else None


def _whole(found: dict[str, Any]) -> dict[str, Any]:
    weights = {name: whole(each).clone() for name, each in found["weights"].items()}
    return {**found, "weights": weights}


def _gradients(run: Any) -> tuple[po.Fit, list[dict[str, torch.Tensor]]]:
    """A fit, and the gradient of each of its updates."""
    seen: list[dict[str, torch.Tensor]] = []
    plain = Updater._clip

    def clip(self: Updater, limit: float | None) -> torch.Tensor:
        named = dict(self.policy.module.named_parameters())
        seen.append(
            {
                name.replace("/", "."): whole(each.grad).clone()
                for name, each in named.items()
                if each.grad is not None
            }
        )
        return plain(self, limit)

    Updater._clip = clip  # type: ignore[method-assign]
    try:
        return run(), seen
    finally:
        Updater._clip = plain  # type: ignore[method-assign]


def sharded_fit(kind: str, folder: Path, objective: str = "rloo", **settings: Any) -> Any:
    given: dict[str, Any] = {"steps": 3, "num_samples": 5, "learning_rate": 1e-4, **settings}
    aim = target()
    fitted, gradients = _gradients(
        lambda: po.fit(aim, objective, policy=kind, seed=1, sharding=SHARDING, **given)
    )
    fitted.policy.save_pretrained(folder / kind)
    report = po.evaluate(aim, fitted.policy, num_samples=32, seed=3)
    return {
        **_whole(trained(fitted)),
        "gradients": gradients,
        "evaluate": {name: (each.value, each.standard_error) for name, each in report.items()},
        "is cut": any(
            type(each).__name__ == "DTensor" for each in fitted.policy.trained_state().values()
        ),
    }


def sharded(folder: Path) -> dict[str, Any]:
    place = folder if SEVERAL else folder / "alone"
    return {
        "full": sharded_fit("full", place),
        "lora": sharded_fit("lora", place),
        # With micro-batches of one draw each process has another number of them.
        "small": sharded_fit("full", place / "small", micro_batch_size=1),
        "soft_q": sharded_fit("lora", place / "soft_q", "soft_q", steps=2),
        "adapter": _adapter(place / "adapter"),
    }


def kept_sharded(folder: Path) -> dict[str, Any]:
    """A run with a directory, taken up where there is one; stopped as `JOB_STOP` says."""
    place = folder / "run"
    resume = (place / "config.json").exists()
    stop_at = int(os.environ["JOB_STOP"])
    seen: list[int] = []

    def stop(record: dict[str, Any]) -> None:
        seen.append(record["step"])
        if record["step"] + 1 == stop_at:
            raise RuntimeError("enough")

    given: dict[str, Any] = {"num_samples": 4, "learning_rate": 1e-4, "checkpoint_every": 1}
    given |= {"steps": 4, "output_dir": place, "resume": resume, "on_step": stop}
    try:
        fitted = po.fit(target(), "ppo", sharding=SHARDING, **given)
    except RuntimeError:
        return {"seen": seen}
    found = _whole(trained(fitted))
    return {**found, "seen": seen, "saved": (place / "policy" / "model.safetensors").exists()}


def _adapter(place: Path) -> list[float]:
    """An adapter on weights that have a path, and what it makes of them: log-probs."""
    prior = po.load("tiny")
    reward = po.Reward(worth, beta=0.3, max_reward=1.0)
    aim = po.Target(prior, reward, ["The food", "It"], 3)
    given: dict[str, Any] = {"steps": 1, "num_samples": 5, "learning_rate": 1e-2}
    fitted = po.fit(aim, "rloo", policy="lora", seed=1, sharding=SHARDING, **given)
    fitted.policy.save_pretrained(place)
    with torch.no_grad():
        return fitted.policy.log_prob(fitted.policy.completions(["The"], [[5, 6, 7]])).tolist()

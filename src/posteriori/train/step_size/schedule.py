"""The learning rate and the prompts of a step, as functions of the step's number alone."""

from __future__ import annotations

import math

import torch

from posteriori.core.seeds import generator
from posteriori.core.settings.training import FitConfig


def share_of_rate(settings: FitConfig, step: int) -> float:
    """What share of the rate step `step` (from 0) has: linear warm-up, then the decay to zero at
    `steps`. Without a `decay`, a fixed rate falls linearly, and "auto" only over the second half:
    its first steps find how large they should be."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    length = max(settings.steps - settings.warmup_steps, 1)
    done = (step - settings.warmup_steps) / length
    decay = settings.decay or ("late" if settings.learning_rate == "auto" else "linear")
    if decay == "linear":
        return 1.0 - done
    if decay == "late":
        return min(1.0, 2.0 * (1.0 - done))
    if decay == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


def prompts_of_step(num_prompts: int, per_step: int, seed: int, step: int) -> list[int]:
    """Positions of the step's prompts: shuffled passes over all prompts, one after another."""
    if per_step >= num_prompts:
        return list(range(num_prompts))
    first = step * per_step
    epochs = range(first // num_prompts, (first + per_step - 1) // num_prompts + 1)
    order = torch.cat(
        [torch.randperm(num_prompts, generator=generator(seed, "prompts", e)) for e in epochs]
    )
    start = first - epochs[0] * num_prompts
    return order[start : start + per_step].tolist()

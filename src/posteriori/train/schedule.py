"""The learning rate and the prompts of a step, as functions of the step's number alone."""

from __future__ import annotations

import math

import torch

from ..config import FitSettings
from ..seeds import generator


def learning_rate(settings: FitSettings, step: int) -> float:
    """The rate of step `step` (from 0): linear warm-up, then the decay to zero at `steps`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    length = max(settings.steps - settings.warmup_steps, 1)
    done = (step - settings.warmup_steps) / length
    if settings.decay == "linear":
        return settings.learning_rate * (1.0 - done)
    if settings.decay == "cosine":
        return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
    return settings.learning_rate


def prompts_of_step(num_prompts: int, per_step: int, seed: int, step: int) -> list[int]:
    """Positions of the step's prompts: shuffled passes over all prompts, one after another."""
    if per_step >= num_prompts:
        return list(range(num_prompts))
    first = step * per_step
    chosen = []
    for place in range(first, first + per_step):
        epoch, offset = divmod(place, num_prompts)
        order = torch.randperm(num_prompts, generator=generator(seed, "prompts", epoch))
        chosen.append(int(order[offset]))
    return chosen

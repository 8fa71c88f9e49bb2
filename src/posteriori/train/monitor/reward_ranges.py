"""Which of several reward functions never distinguishes two completions of a prompt."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.occurrence import prompt_key
from posteriori.core.types import Finding


@dataclass
class _Range:
    """Of one function: its values so far, over all prompts and by prompt, and how many it gave."""

    low: float = math.inf
    high: float = -math.inf
    by_prompt: dict[str, tuple[float, float]] = field(default_factory=dict)
    asked: int = 0
    none: int = 0
    varies: bool = False


class RewardRanges:
    """What each function of a `Reward` that has several has answered in a run."""

    def __init__(self) -> None:
        self._ranges: dict[str, _Range] = {}

    def __call__(self, name: str, completions: Completions, reward_N: Tensor) -> None:
        """Its answers for these completions; NaN where it does not apply."""
        seen = self._ranges.setdefault(name, _Range())
        seen.asked += len(reward_N)
        seen.none += int(reward_N.isnan().sum())
        if seen.varies or bool(reward_N.isnan().all()):
            return
        prompt_N = completions.prompt_index_N.cpu()
        size = len(completions.prompt_set)
        low_N, high_N = (
            reward_N.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf),
            reward_N,
        )
        high_N = reward_N.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        low_P = torch.full((size,), math.inf).double().scatter_reduce(0, prompt_N, low_N, "amin")
        high_P = torch.full((size,), -math.inf).double().scatter_reduce(0, prompt_N, high_N, "amax")
        for at in prompt_N.unique().tolist():
            key = prompt_key(completions.prompt_set[at])
            low, high = seen.by_prompt.get(key, (math.inf, -math.inf))
            low, high = min(low, float(low_P[at])), max(high, float(high_P[at]))
            seen.by_prompt[key] = (low, high)
            seen.varies = seen.varies or low < high
            seen.low, seen.high = min(seen.low, low), max(seen.high, high)

    def findings(self) -> list[Finding]:
        """A finding for each function whose values never differ within a prompt."""
        return [
            _same(name, each)
            for name, each in self._ranges.items()
            if not each.varies and each.asked > 1
        ]

    def state_dict(self) -> dict[str, Any]:
        return {name: asdict(each) for name, each in self._ranges.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ranges = {
            name: _Range(
                **{
                    **each,
                    "by_prompt": {key: tuple(both) for key, both in each["by_prompt"].items()},
                }
            )
            for name, each in state.items()
        }


def _same(name: str, seen: _Range) -> Finding:
    if seen.none == seen.asked:
        what = f"returned None for all {seen.asked:,} completions so far"
    elif seen.low == seen.high:
        what = f"was {seen.low:g} for all {seen.asked - seen.none:,} completions so far"
    else:
        what = f"was the same for all completions of a prompt, of {seen.asked - seen.none:,} so far"
    return Finding(
        "warn",
        f"reward_constant_{name}",
        f"The reward '{name}' {what}, so it adds nothing to what the others say.",
        "Print what it gets and returns, or leave it out.",
    )

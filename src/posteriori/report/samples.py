"""Completions to look at: a dozen of each policy, prompt by prompt, all policies side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..target import Target
from .result import PolicyResult
from .text import fixed, number, prompt_text, visible

A_DOZEN = 12
AT_LEAST = 3
"""Draws a prompt while the prompts are few: less cannot show that a policy repeats itself."""
LONGEST = 1200


@dataclass(frozen=True)
class Cell:
    """One draw. The sort keys are written as JavaScript's `Number` reads them."""

    text: str
    cut_off: bool
    reward: str
    reward_key: str
    log_prob: str
    log_prob_key: str


def samples(policies: Sequence[PolicyResult], target: Target) -> list[dict[str, Any]]:
    """For each shown prompt its rows: the k-th draw of every policy, None where there is none.

    They are each policy's first draws, not chosen ones, so what they look like is what is typical.
    """
    prompts = target.prompts[:A_DOZEN]
    each = max(AT_LEAST, math.ceil(A_DOZEN / len(prompts)))
    columns = [
        [_draws(policy, index, each) for policy in policies] for index in range(len(prompts))
    ]
    return [
        {
            "prompt": prompt_text(prompt),
            "cut_off": any(cell.cut_off for column in drawn for cell in column),
            "rows": [
                [column[k] if k < len(column) else None for column in drawn]
                for k in range(max((len(column) for column in drawn), default=0))
            ],
        }
        for prompt, drawn in zip(prompts, columns, strict=True)
        if any(drawn)
    ]


def _draws(policy: PolicyResult, prompt: int, most: int) -> list[Cell]:
    draws = policy.report.draws
    rows = (draws.completions.prompt_index_N == prompt).nonzero()[:most, 0]
    if not len(rows):
        return []
    completions = draws.completions.select(rows)
    return [
        _cell(text, bool(truncated), float(reward), float(log_prob))
        for text, truncated, reward, log_prob in zip(
            completions.texts,
            completions.truncated_N.tolist(),
            _values(draws.reward_N, rows),
            _values(draws.log_proposal_N, rows),
            strict=True,
        )
    ]


def _values(values_N: torch.Tensor, rows: torch.Tensor) -> list[float]:
    return values_N.detach()[rows.to(values_N.device)].tolist()


def _cell(text: str, truncated: bool, reward: float, log_prob: float) -> Cell:
    return Cell(
        visible(text, LONGEST),
        truncated,
        number(reward, 2),
        _key(reward),
        fixed(log_prob),
        _key(log_prob),
    )


def _key(value: float) -> str:
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return "NaN" if math.isnan(value) else repr(value)

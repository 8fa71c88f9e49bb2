"""Which draws belong to which prompt, found for all prompts in one sort; and some of each prompt's,
by weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posteriori.errors import ConfigError

from .tensors import split_by


def split_rows(prompt_index_N: Tensor, num_prompts: int) -> tuple[Tensor, ...]:
    """The positions of each prompt's draws, in order; one tensor per prompt, on the CPU."""
    index_N = prompt_index_N.cpu()
    order_N = index_N.argsort(stable=True)
    return split_by(order_N, index_N.bincount(minlength=num_prompts))


def rows_of_prompts(completions: Any) -> tuple[Tensor, ...]:
    """`split_rows` of a set of completions, which keeps what is found."""
    kept: dict[str, Any] = completions.__dict__
    if _NAME not in kept:
        kept[_NAME] = split_rows(completions.prompt_index_N, len(completions.prompt_set))
    found: tuple[Tensor, ...] = kept[_NAME]
    return found


_NAME = "_rows_of_prompts"


def shares_of_prompts(completions: Any, log_weight_N: Tensor) -> Tensor:
    """Each draw's share of its prompt's weight, [N]; 0 where no draw of a prompt has any."""
    share_N = log_weight_N.new_zeros(len(log_weight_N))
    for rows in rows_of_prompts(completions):
        log_w_n = log_weight_N[rows]
        if len(log_w_n) and not bool(log_w_n.isneginf().all()):
            share_N[rows] = log_w_n.softmax(0)
    return share_N


def resampled_rows(completions: Any, log_weight_N: Tensor, num_samples: int, seed: int) -> Tensor:
    """The positions of `num_samples` draws per prompt, by systematic resampling. Raises
    `ConfigError` where no draw of a prompt has any weight."""
    if num_samples < 1:
        raise ConfigError(f"resample: num_samples={num_samples} must be at least 1")
    mine = rows_of_prompts(completions)
    uniform_P = torch.rand(
        len(completions.prompt_set),
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )
    chosen: list[Tensor] = []
    for at, prompt in enumerate(completions.prompt_set):
        rows = mine[at]
        log_w_n = log_weight_N[rows].cpu()
        if len(rows) == 0 or bool(log_w_n.isneginf().all()):
            raise ConfigError(
                f"none of the {len(rows)} draws for the prompt {str(prompt)[:60]!r} has any "
                "weight, so there is nothing to resample",
                hint="draw more, or from a proposal that is nearer to the target",
            )
        cumulative_n = log_w_n.softmax(0).cumsum(0)
        points = (torch.arange(num_samples, dtype=torch.float64) + uniform_P[at]) / num_samples
        places = torch.searchsorted(cumulative_n / cumulative_n[-1], points, right=True)
        chosen.append(rows[places.to(rows.device)])
    return torch.cat(chosen)

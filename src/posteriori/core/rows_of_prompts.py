"""Which draws belong to which prompt, found for all prompts in one sort."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def split_rows(prompt_index_N: Tensor, num_prompts: int) -> tuple[Tensor, ...]:
    """The positions of each prompt's draws, in order; one tensor a prompt, on the CPU."""
    index_N = prompt_index_N.cpu()
    order_N = index_N.argsort(stable=True)
    return order_N.split(index_N.bincount(minlength=num_prompts).tolist())


def rows_of_prompts(completions: Any) -> tuple[Tensor, ...]:
    """`split_rows` of a set of completions, which keeps what is found."""
    kept = vars(completions)
    if _NAME not in kept:
        kept[_NAME] = split_rows(completions.prompt_index_N, len(completions.prompt_set))
    return kept[_NAME]


_NAME = "_rows_of_prompts"

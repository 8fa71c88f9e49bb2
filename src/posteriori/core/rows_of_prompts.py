"""Which draws belong to which prompt, found for all prompts in one sort."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .tensors import split_by


def split_rows(prompt_index_N: Tensor, num_prompts: int) -> tuple[Tensor, ...]:
    """The positions of each prompt's draws, in order; one tensor a prompt, on the CPU."""
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

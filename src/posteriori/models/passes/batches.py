"""Which completions are scored together: groups that fit in memory, with little padding.

A group runs each of its distinct prompts once, padded to the longest, and then its completions,
padded to the longest; so its size is counted in these tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posteriori.core.completions import Completions

_SPREAD = 1.25
"""A group may run so many times the tokens that it has: the rest is padding."""

_WORTH_SPLITTING = 1024
"""Tokens below which a group is too small to be worth closing for the sake of padding."""

_CACHED = 8
"""Tokens that a row holds of its prompt's cache cost as much memory as an eighth so many run."""


def length_sorted_batches(completions: Completions, cells: int) -> list[Tensor]:
    """Positions in groups of similar total length, each of at most `cells` tokens (or one row).

    The groups cover every completion once and depend on lengths alone, so they are the same for
    every language model with the same tokenizer. Those of similar length are of equal size.
    """
    prompt_lengths = torch.tensor([len(ids) for ids in completions.prompt_ids])
    prompt_N = completions.prompt_index_N.cpu()
    lengths_N = completions.lengths_N.cpu()
    prompt_length_N = prompt_lengths[prompt_N]
    order = torch.argsort(prompt_length_N + lengths_N, stable=True)
    rows = _Rows(*(x[order].numpy() for x in (prompt_N, prompt_length_N, lengths_N)))
    sizes = [size for run in _even_runs(rows) for size in _sizes(run, cells)]
    return list(order.split(sizes)) if sizes else []


def batches_of_units(completions: Completions, cells: int, together: int) -> list[Tensor]:
    """As `length_sorted_batches`, where so many neighbouring completions are never parted."""
    if together == 1:
        return length_sorted_batches(completions, cells)
    first_U = torch.arange(0, len(completions), together)
    longest_U = first_U + completions.lengths_N.view(-1, together).argmax(-1).cpu()
    units = length_sorted_batches(completions.select(longest_U), max(1, cells // together))
    return [(first_U[unit][:, None] + torch.arange(together)).flatten() for unit in units]


@dataclass(frozen=True)
class _Rows:
    """Completions in a row: which prompt each has, the prompt's length, its own length."""

    prompt_K: NDArray[np.int64]
    prompt_length_K: NDArray[np.int64]
    length_K: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.prompt_K)

    def __getitem__(self, part: slice) -> _Rows:
        return _Rows(self.prompt_K[part], self.prompt_length_K[part], self.length_K[part])

    def tokens(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens that the first 1, 2, .. K rows have, and that they run as one group."""
        is_first_K = np.zeros(len(self), dtype=np.int64)
        is_first_K[np.unique(self.prompt_K, return_index=True)[1]] = 1
        has_K = (self.length_K + is_first_K * self.prompt_length_K).cumsum()
        prompts_K = is_first_K.cumsum() * np.maximum.accumulate(self.prompt_length_K)
        return has_K, prompts_K + np.arange(1, len(self) + 1) * np.maximum.accumulate(self.length_K)

    def cells(self) -> int:
        """Tokens' worth of memory that all of them take."""
        _, runs_K = self.tokens()
        return int(runs_K[-1]) + len(self) * int(self.prompt_length_K.max() // _CACHED)


def in_order(parts: Sequence[Tensor], groups: Sequence[Tensor], width: int) -> Tensor:
    """What was computed group by group, [n, t, ...] each, as one tensor [N, width, ...] in the
    completions' own order, padded with zeros."""
    padded = [
        torch.cat([part, part.new_zeros(len(part), width - part.shape[1], *part.shape[2:])], dim=1)
        for part in parts
    ]
    order = torch.cat(list(groups)).to(parts[0].device)
    return torch.cat(padded)[torch.argsort(order)]


def _even_runs(rows: _Rows) -> Iterator[_Rows]:
    """The rows cut where padding would become too much."""
    while len(rows):
        has_K, runs_K = rows.tokens()
        before_K = np.append(0, has_K[:-1])
        too_much_K = (runs_K > _SPREAD * has_K) & (before_K >= _WORTH_SPLITTING)
        cut = int(too_much_K.argmax()) or len(rows)
        yield rows[:cut]
        rows = rows[cut:]


def _sizes(run: _Rows, cells: int) -> list[int]:
    """Group sizes, as few and as equal as they can be."""
    rows = len(run)
    for groups in range(1, rows):
        sizes = [rows // groups + (at < rows % groups) for at in range(groups)]
        starts = accumulate(sizes, initial=0)
        parts = (run[start : start + size] for start, size in zip(starts, sizes, strict=False))
        if all(part.cells() <= cells for part in parts):
            return sizes
    return [1] * rows

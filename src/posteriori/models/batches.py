"""Which completions are scored together: groups that fit in memory, with little padding.

A group runs each of its distinct prompts once, padded to the longest, and then its completions,
padded to the longest; so its size is counted in these tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..types import Completions

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
    order = torch.argsort(prompt_lengths[prompt_N] + lengths_N, stable=True)
    prompts, lengths = prompt_N[order].tolist(), lengths_N[order].tolist()
    rows = [
        (prompt, len(completions.prompt_ids[prompt]), length)
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
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


Row = tuple[int, int, int]
"""A completion: which prompt it has, the prompt's length, its own length."""


class _Count:
    """Tokens of a group, as its rows are added: those that it has, and those that it runs."""

    def __init__(self) -> None:
        self.prompts: set[int] = set()
        self.rows = self.has = self.longest_prompt = self.longest = 0

    def add(self, row: Row) -> None:
        prompt, prompt_length, length = row
        if prompt not in self.prompts:
            self.prompts.add(prompt)
            self.has += prompt_length
        self.has += length
        self.rows += 1
        self.longest_prompt = max(self.longest_prompt, prompt_length)
        self.longest = max(self.longest, length)

    @property
    def runs(self) -> int:
        return len(self.prompts) * self.longest_prompt + self.rows * self.longest

    @property
    def cells(self) -> int:
        return self.runs + self.rows * (self.longest_prompt // _CACHED)


def in_order(parts: Sequence[Tensor], groups: Sequence[Tensor], width: int) -> Tensor:
    """What was computed group by group, [n, t, ...] each, as one tensor [N, width, ...] in the
    completions' own order, padded with zeros."""
    padded = [
        torch.cat([part, part.new_zeros(len(part), width - part.shape[1], *part.shape[2:])], dim=1)
        for part in parts
    ]
    order = torch.cat(list(groups)).to(parts[0].device)
    return torch.cat(padded)[torch.argsort(order)]


def _even_runs(rows: list[Row]) -> list[list[Row]]:
    """The rows cut where padding would become too much."""
    runs: list[list[Row]] = []
    count = _Count()
    for row in rows:
        before = count.has
        count.add(row)
        too_much = count.runs > _SPREAD * count.has and before >= _WORTH_SPLITTING
        if not runs or too_much:
            runs.append([])
            count = _Count()
            count.add(row)
        runs[-1].append(row)
    return runs


def _sizes(run: list[Row], cells: int) -> list[int]:
    """Group sizes, as few and as equal as they can be."""
    rows = len(run)
    for groups in range(1, rows):
        sizes = [rows // groups + (at < rows % groups) for at in range(groups)]
        if all(_cells(run[sum(sizes[:at]) :][:size]) <= cells for at, size in enumerate(sizes)):
            return sizes
    return [1] * rows


def _cells(group: list[Row]) -> int:
    count = _Count()
    for row in group:
        count.add(row)
    return count.cells

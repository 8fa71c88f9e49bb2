"""The uniform numbers that decide draws, from one stream or from several.

A row of numbers belongs to one completion, so draws that several callers have asked for can go
through a model in one batch, and each of them is what its own stream alone would have made it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posteriori.distributed.exchange import by_first


class Streams(torch.Generator):
    """Several generators as one: the first rows come from the first, the next from the second."""

    parts: tuple[tuple[torch.Generator | None, int], ...]
    """Each generator (None: the global one) and how many rows are its own."""

    @classmethod
    def of(cls, parts: Sequence[tuple[torch.Generator | None, int]]) -> Streams:
        made = cls()
        made.parts = tuple(parts)
        return made


def uniform_rows(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """Numbers in [0, 1), float64 [rows, columns], the same ones in every process."""
    if isinstance(generator, Streams):
        return torch.cat([uniform_rows(own, columns, each) for each, own in generator.parts])
    if generator is None:
        # The global stream may stand elsewhere in each process.
        return by_first(lambda: torch.rand((rows, columns), dtype=torch.float64))
    return torch.rand((rows, columns), dtype=torch.float64, generator=generator)

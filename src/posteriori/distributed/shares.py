"""Which rows each process takes: neighbours, so that draws of one prompt mostly stay together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise


def shares(number: int, size: int, weights: Sequence[float] | None = None) -> list[slice]:
    """`number` rows cut into `size` runs, some of them empty where there are fewer rows.

    Without `weights` their lengths differ by at most one; with one weight per row (its tokens) the
    runs are of about equal weight.
    """
    if weights is None:
        ends = [number * at // size for at in range(size + 1)]
    else:
        ends = _ends(list(accumulate(weights)), size)
    return [slice(start, end) for start, end in pairwise(ends)]


def _ends(sums: Sequence[float], size: int) -> list[int]:
    """A row goes to the process in whose part of the whole its middle lies."""
    total = sums[-1] if sums else 0.0
    ends, row = [0], 0
    for at in range(1, size):
        before = sums[row - 1] if row else 0.0
        while row < len(sums) and (before + sums[row]) / 2 < total * at / size:
            before = sums[row]
            row += 1
        ends.append(row)
    return [*ends, len(sums)]

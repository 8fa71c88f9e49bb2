"""How many different rows there are, by a hash of each."""

from __future__ import annotations

import pytest
import torch

from posteriori.core.numerics import num_distinct


@pytest.mark.parametrize("high", [2, 5, 2**17, 2**40])
def test_it_is_the_number_of_unique_rows(high):
    """Few values of which many rows are equal, and large ones that differ in one place only."""
    stream = torch.Generator().manual_seed(high)
    row_NK = torch.randint(-1, high, (3000, 6), generator=stream)
    row_NK[1000:2000] = row_NK[:1000]
    row_NK[2000:] = row_NK[:1000]
    row_NK[2000:, 5] += torch.arange(1000) % 3
    assert num_distinct(row_NK) == len(row_NK.unique(dim=0))


def test_rows_that_are_permutations_of_each_other_differ():
    assert num_distinct(torch.tensor([[1, 2, 3], [3, 2, 1], [2, 1, 3], [1, 2, 3]])) == 3


def test_no_rows_are_none():
    assert num_distinct(torch.zeros(0, 3, dtype=torch.long)) == 0

"""Groups for scoring: every completion once, within the limit, of equal size, little padding."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_lm

from posteriori.models.cpu.float32_attention import Float32Attention
from posteriori.models.passes.batches import length_sorted_batches


def completions(lengths, prompts=("a",)):
    lm = tiny_lm("gpt2")
    rows = [prompts[at % len(prompts)] for at in range(len(lengths))]
    return lm.completions(rows, [[1] * length for length in lengths], max(lengths))


def run_tokens(batch):
    """What a group costs to run: each prompt once and each completion, padded."""
    prompts = {batch.prompt_ids[i] for i in batch.prompt_index_N.tolist()}
    longest = max(len(ids) for ids in prompts)
    return len(prompts) * longest + len(batch) * int(batch.lengths_N.max())


@pytest.mark.parametrize("cells", [1, 10, 37, 100, 10_000])
def test_groups_cover_every_completion_once_within_the_limit(cells):
    made = completions([1 + (7 * at) % 13 for at in range(50)], ("a", "b c d", "e a"))
    groups = length_sorted_batches(made, cells)
    assert sorted(torch.cat(groups).tolist()) == list(range(50))
    for group in groups:
        assert len(group) == 1 or run_tokens(made.select(group)) <= cells


def test_groups_of_one_length_are_of_equal_size():
    sizes = [len(group) for group in length_sorted_batches(completions([16] * 64), 31 * 16 + 1)]
    assert sizes == [22, 21, 21]


def test_a_few_long_completions_do_not_pad_the_others():
    made = completions([10] * 200 + [30] * 4)
    groups = length_sorted_batches(made, 100_000)
    assert [len(group) for group in groups] == [200, 4]


def test_nothing_gives_no_groups():
    assert length_sorted_batches(completions([1]).select(torch.arange(0)), 10) == []


def test_attention_stays_in_float32_and_returns_what_autocast_would():
    query, key, value = torch.randn(3, 1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    attend = torch.nn.functional.scaled_dot_product_attention
    exact = attend(query, key, value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = attend(query, key, value)
        with Float32Attention():
            mine = attend(query, key, value=value)
    assert mine.dtype == rounded.dtype == torch.bfloat16
    assert torch.equal(mine, exact.bfloat16())
    assert not torch.equal(rounded, mine)

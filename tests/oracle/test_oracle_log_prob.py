"""Log-probs of every outcome against the table, whatever the batch looks like."""

from __future__ import annotations

import pytest
import torch
from helpers import word_tokenizer

import posteriori as po

TOLERANCE = 1e-5


def error(lm, case, rows=None) -> float:
    completions, expected = case.all_outcomes(lm), case.prior_log_prob()
    if rows is not None:
        completions, expected = completions.select(rows), expected[rows]
    return float((lm.log_prob(completions) - expected).abs().max())


def test_every_outcome_of_three_prompts_in_one_batch(case):
    assert error(case.prior(), case) < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<eos>", "e", None], ids=["pad is eos", "pad is a word", "no pad"])
def test_neither_padding_side_nor_pad_token_matter(case, side, pad):
    tokenizer = word_tokenizer(side)
    tokenizer.pad_token = pad
    assert error(po.CausalLM(case.prior().model, tokenizer), case) < TOLERANCE


def test_order_and_repetition_do_not_matter(case):
    total = len(case.prior_log_prob())
    generator = torch.Generator().manual_seed(3)
    shuffled = torch.randperm(total, generator=generator)
    repeated = torch.randint(total, (total,), generator=generator)
    assert error(case.prior(), case, torch.cat([shuffled, repeated])) < TOLERANCE


@pytest.mark.parametrize("memory_gib", [1e-9, 1e-4, 1e-3], ids=["rows", "small", "ragged"])
def test_micro_batches_do_not_matter(case_1, memory_gib):
    lm = po.CausalLM(case_1.prior().model, word_tokenizer(), memory_gib=memory_gib)
    rows = torch.arange(0, len(case_1.prior_log_prob()), 7)
    batches = lm.micro_batches(case_1.all_outcomes(lm).select(rows))
    assert len(batches) > 1
    assert sorted(torch.cat(batches).tolist()) == list(range(len(rows)))
    assert error(lm, case_1, rows) < TOLERANCE


def test_a_micro_batch_may_mix_all_lengths(case_1, monkeypatch):
    lm = case_1.prior()
    monkeypatch.setattr(lm, "micro_batches", lambda completions: [torch.arange(len(completions))])
    assert error(lm, case_1) < TOLERANCE


def test_one_prompt_at_a_time_gives_the_same(case):
    lm = case.prior()
    together = lm.log_prob(case.all_outcomes(lm)).view(len(case.prompts), -1)
    for row, prompt in zip(together, case.prompts, strict=True):
        alone = lm.log_prob(lm.completions([prompt], case.outcomes, 4))
        torch.testing.assert_close(alone, row, rtol=0, atol=TOLERANCE)


def test_the_log_probs_are_those_of_the_sampler(case):
    lm = case.prior()
    drawn = lm.sample(case.prompts, 200, 4, torch.Generator().manual_seed(0))
    place = {tuple(ids): at for at, ids in enumerate(case.outcomes)}
    expected = case.prior_log_prob().view(len(case.prompts), -1)[
        drawn.prompt_index_N, [place[tuple(ids)] for ids in drawn.completion_ids]
    ]
    torch.testing.assert_close(drawn.log_prob_N, expected, rtol=0, atol=TOLERANCE)


def test_a_table_gives_back_its_own_log_probs_and_the_outcomes_are_exhaustive(case):
    """The oracle's log-probs as a table: a second language model with known answers."""
    table = po.TabularLM.random(("<eos>", *"abcde"), 4, case.prompts, seed=7)
    log_prob = table.log_prob(case.all_outcomes(table)).view(len(case.prompts), -1)
    torch.testing.assert_close(
        log_prob.logsumexp(-1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12
    )

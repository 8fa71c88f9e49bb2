"""Completions that keep a prefix and draw the rest anew, on transformers models and on tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import WORDS, generator, tiny_lm

import posteriori as po
from posteriori.errors import ModelError
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves, suffix_tokens
from posteriori.testing.cases import outcomes_of
from posteriori.testing.kernel_matrix import KernelMatrix, chi_squared


@pytest.fixture(params=["gpt2", "llama", "min 3 tokens", "table"])
def lm(request, prompts):
    if request.param == "table":
        return po.TabularLM.random(WORDS, 5, prompts, seed=3)
    if request.param == "min 3 tokens":
        return tiny_lm("gpt2").warped(min_new_tokens=3, temperature=1.3)
    return tiny_lm(request.param)


def cuts(completions, seed=5):
    uniform_N = torch.rand(len(completions), generator=generator(seed), dtype=torch.float64)
    return (uniform_N * completions.lengths_N).long()


def test_prefixes_stay_and_log_probs_are_the_models_own(lm, prompts):
    old = lm.sample(prompts, 40, 5, generator(1))
    start_N = cuts(old)
    new = lm.resample_suffix(old, start_N, generator(2))
    new.check_outcomes(5)
    assert new.prompts == old.prompts
    for before, after, start in zip(
        old.completion_ids, new.completion_ids, start_N.tolist(), strict=True
    ):
        assert after[:start] == before[:start]
        assert 0 not in after[:-1]
    assert torch.equal(new.ended_N, torch.tensor([y[-1] == 0 for y in new.completion_ids]))
    assert bool((new.tokens_NL[~new.mask_NL] == 0).all())
    assert new.completion_ids != old.completion_ids
    with torch.no_grad():
        torch.testing.assert_close(new.token_log_prob_NL, lm.token_log_prob(new), rtol=0, atol=1e-5)


def test_log_probs_are_left_out_where_the_prefix_has_none(lm, prompts):
    old = replace(lm.sample(prompts, 4, 5, generator(1)), token_log_prob_NL=None)
    start_N = torch.zeros(len(old), dtype=torch.long)
    assert lm.resample_suffix(old, start_N, generator(2)).token_log_prob_NL is not None
    start_N[-1] = old.lengths_N[-1] - 1
    assert start_N[-1] > 0
    assert lm.resample_suffix(old, start_N, generator(2)).token_log_prob_NL is None


def test_memory_is_split_without_a_trace(prompts):
    lm = tiny_lm("gpt2")
    old = lm.sample(prompts, 40, 5, generator(1))
    whole = lm.resample_suffix(old, cuts(old), generator(2))
    lm.memory_gib = 1e-5
    parts = lm.resample_suffix(old, cuts(old), generator(2))
    assert whole.completion_ids == parts.completion_ids


def test_texts_that_have_not_ended_can_go_on(lm, prompts):
    short = lm.sample(prompts, 40, 2, generator(1))
    open_N = ~short.ended_N
    longer = replace(short.select(open_N), max_new_tokens=5)
    new = lm.resample_suffix(longer, longer.lengths_N, generator(2))
    assert bool((new.lengths_N > 2).all())
    new.check_outcomes(5)
    assert torch.equal(new.tokens_NL[:, :2], longer.tokens_NL)


@pytest.mark.parametrize("name", ["gpt2", "table"])
def test_suffixes_follow_the_model(name):
    """Rate 1e-6 over eight prefixes; 20,000 draws each, next tokens and all after them.

    The same draws are found wrong (below 1e-9) against a model at temperature 1.25.
    """
    prompt = "a b"
    lm = tiny_lm("gpt2") if name == "gpt2" else po.TabularLM.random(WORDS, 3, (prompt,), seed=3)
    target = po.Target(lm, [], [prompt], 3)
    exact = KernelMatrix(SuffixMoves(target, lm), outcomes_of(lm, prompt, 3, len(WORDS)))
    warm = lm.token_power(0.8)
    other = KernelMatrix(SuffixMoves(target, warm), outcomes_of(warm, prompt, 3, len(WORDS)))
    prefixes = [[], [1], [2], [5], [1, 1], [4, 2], [3, 5], [5, 5]]
    wrong = []
    for prefix in prefixes:
        old = lm.completions([prompt], [[*prefix, 0]] * 20_000, 3)
        start_N = torch.full((20_000,), len(prefix))
        index_N = exact.index(lm.resample_suffix(old, start_N, generator(4)))
        begins = torch.tensor([y[: len(prefix)] == prefix for y in exact.states.completion_ids])
        assert chi_squared(index_N, exact.log_q_S.exp() * begins) > 1e-6 / len(prefixes)
        wrong.append(chi_squared(index_N, other.log_q_S.exp() * begins))
    assert max(wrong[:4]) < 1e-9


def test_what_a_move_costs_is_counted():
    """Distinct prefixes with their prompts, and the fresh tokens."""
    lm = tiny_lm("gpt2")
    old = lm.completions(["a b", "a b", "a b", "c"], [[1, 2, 0], [1, 2, 3], [4, 0], [1, 0]], 3)
    new = lm.completions(["a b", "a b", "a b", "c"], [[1, 1, 0], [1, 0], [4, 4, 4], [0]], 3)
    # (a b) + 1 once for two rows, (a b) + 1 for the third, (c) for the last; 2 + 1 + 2 + 1 fresh.
    assert suffix_tokens(old, new, torch.tensor([1, 1, 1, 0])) == 3 + 3 + 1 + 6


def test_tokens_to_a_power():
    """The power of a warped model is that of the warped distribution."""
    for lm in (tiny_lm("gpt2"), tiny_lm("gpt2").warped(temperature=0.7, top_k=4)):
        words = lm.completions(["a b"], [[i] for i in range(len(WORDS))], 1)
        with torch.no_grad():
            powered_V = (3.0 * lm.log_prob(words)).log_softmax(0)
            torch.testing.assert_close(
                lm.token_power(3.0).log_prob(words), powered_V, rtol=0, atol=1e-5
            )
    with pytest.raises(ModelError, match=r"top_p=0\.9"):
        tiny_lm("gpt2").warped(top_p=0.9).token_power(2.0)

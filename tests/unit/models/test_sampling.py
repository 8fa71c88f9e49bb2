"""The sampler: what is drawn does not depend on how the work is arranged, and nothing leaks."""

from __future__ import annotations

import math
from collections import Counter
from typing import ClassVar

import pytest
import torch
import transformers
from helpers import (
    EOS,
    PROMPTS,
    WORDS,
    generator,
    outcome_ids,
    plain_log_probs,
    tiny_lm,
    tiny_model,
    word_tokenizer,
)

import posteriori as po
from posteriori.models.warp import Warp

AGREE = 1e-4
CHAT = (
    "{% for m in messages %}{{ m['role'][0] + ' ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}b {% endif %}"
)


@pytest.fixture(params=["gpt2", "llama"])
def lm(request) -> po.CausalLM:
    return tiny_lm(request.param)


def same_draws(a: po.Completions, b: po.Completions) -> None:
    assert a.completion_ids == b.completion_ids
    assert a.prompts == b.prompts
    torch.testing.assert_close(a.log_prob_N, b.log_prob_N, rtol=0, atol=1e-5)


def test_draws_are_outcomes_in_the_order_of_the_prompts(lm):
    drawn = lm.sample(PROMPTS, 50, 4, generator())
    drawn.check_outcomes(4)
    assert drawn.prompts == [prompt for prompt in PROMPTS for _ in range(50)]
    for ids, ended in zip(drawn.completion_ids, drawn.ended_N.tolist(), strict=True):
        assert (ids[-1] == EOS) == ended
        assert EOS not in ids[:-1]
        assert ended or len(ids) == 4
    assert drawn.log_prob_N.dtype == torch.float64
    assert 0 < int(drawn.ended_N.sum()) < len(drawn)
    assert torch.equal(drawn.truncated_N, ~drawn.ended_N)


def test_splitting_the_batch_changes_no_draw(lm):
    whole = lm.sample(PROMPTS, 20, 6, generator())
    small = po.CausalLM(lm.model, lm.tokenizer, memory_gib=1e-6)
    same_draws(small.sample(PROMPTS, 20, 6, generator()), whole)
    torch.testing.assert_close(small.log_prob(whole), lm.log_prob(whole), rtol=0, atol=1e-5)


def test_the_same_seed_draws_the_same_and_another_seed_does_not(lm):
    first = lm.sample(PROMPTS, 10, 6, generator(1))
    same_draws(lm.sample(PROMPTS, 10, 6, generator(1)), first)
    assert lm.sample(PROMPTS, 10, 6, generator(2)).completion_ids != first.completion_ids


def test_a_prompts_draws_do_not_depend_on_the_prompts_around_it(lm):
    """The first prompt's rows of uniform numbers are the same in both calls."""
    alone = lm.sample(["d e a c"], 20, 6, generator())
    among = lm.sample(["d e a c", "c", "b b b b b b b b"], 20, 6, generator())
    assert among.completion_ids[:20] == alone.completion_ids


def test_rows_that_end_early_leave_the_others_as_they_were():
    """A model that nearly always ends at once: most rows leave after a step, some go on."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 6
    lm = po.CausalLM(model.requires_grad_(False), word_tokenizer())
    drawn = lm.sample(PROMPTS, 200, 10, generator())
    lengths = Counter(drawn.lengths_N.tolist())
    assert lengths[1] > 100
    assert max(lengths) > 4
    torch.testing.assert_close(drawn.log_prob_N, plain_log_probs(model, drawn), rtol=0, atol=AGREE)


def test_a_batch_that_ends_at_the_first_step():
    model = tiny_model("gpt2").requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.transformer.ln_f.bias.fill_(1.0)
    model.transformer.wte.weight[EOS] = 50.0
    drawn = po.CausalLM(model, word_tokenizer()).sample(PROMPTS, 5, 8, generator())
    assert drawn.completion_ids == [[EOS]] * 15
    assert drawn.texts == [""] * 15
    assert float(drawn.log_prob_N.abs().max()) < 1e-6


def test_conversations_go_through_the_chat_template(lm):
    lm.tokenizer.chat_template = CHAT
    chats = [
        [{"role": "a", "content": "c d"}],
        [
            {"role": "a", "content": "e"},
            {"role": "b", "content": "d"},
            {"role": "c", "content": ""},
        ],
    ]
    assert lm.encode(chats[0]) == lm.encode("a c d b")
    drawn = lm.sample(chats, 20, 5, generator())
    assert drawn.prompts[0] == chats[0]
    plain = plain_log_probs(lm.model, drawn)
    torch.testing.assert_close(drawn.log_prob_N, plain, rtol=0, atol=AGREE)
    torch.testing.assert_close(lm.log_prob(drawn), plain, rtol=0, atol=AGREE)
    again = lm.completions(drawn.prompts, drawn.completion_ids, 5)
    torch.testing.assert_close(lm.log_prob(again), plain, rtol=0, atol=AGREE)


def test_an_empty_prompt_starts_from_the_first_token():
    model = tiny_model("gpt2").requires_grad_(False)
    with_bos = word_tokenizer(bos_token="e")
    assert po.CausalLM(model, with_bos).encode("") == (5,)
    lm = po.CausalLM(model, word_tokenizer())
    assert lm.encode("") == (EOS,)
    drawn = lm.sample(["", "a b"], 20, 4, generator())
    torch.testing.assert_close(
        lm.log_prob(drawn), plain_log_probs(model, drawn), rtol=0, atol=AGREE
    )
    alone = lm.log_prob(lm.completions([""], outcome_ids(6, 2), 2))
    assert float(alone.exp().sum()) == pytest.approx(1.0, abs=1e-6)


class TestTheCheckpointsOwnSettings:
    """A generation config with a temperature, a penalty, restrictions and two ends."""

    SETTINGS: ClassVar = {
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 1,
        "top_p": 0.5,
        "repetition_penalty": 2.0,
        "eos_token_id": [0, 3],
        "min_new_tokens": 3,
        "no_repeat_ngram_size": 1,
    }

    @pytest.fixture
    def loaded(self, tmp_path) -> po.CausalLM:
        model = tiny_model("gpt2")
        model.generation_config = transformers.GenerationConfig(**self.SETTINGS)
        model.save_pretrained(tmp_path)
        word_tokenizer().save_pretrained(tmp_path)
        return po.load(tmp_path)

    def test_leak_neither_into_draws_nor_into_log_probs(self, loaded):
        drawn = loaded.sample(PROMPTS, 60, 5, generator())
        plain = plain_log_probs(tiny_model("gpt2"), drawn)
        torch.testing.assert_close(drawn.log_prob_N, plain, rtol=0, atol=AGREE)
        torch.testing.assert_close(loaded.log_prob(drawn), plain, rtol=0, atol=AGREE)
        assert len({tuple(ids) for ids in drawn.completion_ids}) > len(PROMPTS), "top_k is off"
        assert int(drawn.lengths_N.min()) == 1

    def test_every_end_of_sequence_ends(self, loaded):
        assert loaded.eos_token_ids == (0, 3)
        drawn = loaded.sample(PROMPTS, 100, 5, generator())
        last = {drawn.completion_ids[row][-1] for row in drawn.ended_N.nonzero()[:, 0]}
        assert last == {0, 3}
        assert not any({0, 3} & set(ids[:-1]) for ids in drawn.completion_ids)
        outcomes = loaded.completions(["a b"], outcome_ids(6, 3, eos=(0, 3)), 3)
        assert float(loaded.log_prob(outcomes).exp().sum()) == pytest.approx(1.0, abs=1e-6)

    def test_do_not_change_the_exact_figures(self, loaded):
        target = po.Target(loaded, po.Reward(zero, beta=1.0), ["a"], 3)
        assert float(abs(po.exact(target).log_z).max()) < 1e-9


def zero(completions, **kwargs):
    return [0.0] * len(completions)


def processors(warp: Warp, prompt_length: int = 1):
    """The same warp by transformers' own logits processors: an independent reference."""
    chain = transformers.LogitsProcessorList()
    if warp.temperature != 1.0:
        chain.append(transformers.TemperatureLogitsWarper(warp.temperature))
    if warp.top_k:
        chain.append(transformers.TopKLogitsWarper(warp.top_k))
    if warp.top_p < 1.0:
        chain.append(transformers.TopPLogitsWarper(warp.top_p))

    def warped(logits: torch.Tensor, step: int) -> torch.Tensor:
        if step < warp.min_new_tokens:
            logits = logits.clone()
            logits[EOS] = -math.inf
        return chain(torch.zeros(1, prompt_length, dtype=torch.long), logits[None])[0]

    return warped


WARPS = [
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 3},
    {"top_k": 1},
    {"top_k": 100},
    {"top_p": 0.8},
    {"top_p": 0.01},
    {"min_new_tokens": 2},
    {"temperature": 1.5, "top_k": 4, "top_p": 0.9, "min_new_tokens": 1},
]


@pytest.mark.parametrize("settings", WARPS, ids=str)
class TestWarps:
    def test_are_a_distribution_and_the_one_that_is_drawn_from(self, lm, settings):
        warped = lm.warped(**settings)
        outcomes = warped.completions(["d e a"], outcome_ids(6, 3), 3)
        log_prob = warped.log_prob(outcomes)
        assert float(log_prob.exp().sum()) == pytest.approx(1.0, abs=1e-6)
        expected = plain_log_probs(lm.model, outcomes, processors(Warp(**settings)))
        torch.testing.assert_close(log_prob, expected, rtol=0, atol=AGREE)

        drawn = warped.sample(["d e a", "b"], 100, 3, generator())
        torch.testing.assert_close(drawn.log_prob_N, warped.log_prob(drawn), rtol=0, atol=AGREE)
        possible = {
            tuple(ids)
            for ids, value in zip(outcomes.completion_ids, log_prob.tolist(), strict=True)
            if value > -math.inf
        }
        assert {tuple(ids) for ids in drawn.completion_ids[:100]} <= possible

    def test_of_a_target_count_as_its_prior(self, lm, settings):
        target = po.Target(lm.warped(**settings), po.Reward(zero, beta=1.0), ["a"], 3)
        assert float(abs(po.exact(target).log_z).max()) < 1e-9


def test_a_warp_may_be_put_on_a_warp(lm):
    twice = lm.warped(temperature=0.5).warped(top_k=2)
    assert twice.warp == Warp(temperature=0.5, top_k=2)
    assert lm.warp == Warp()


def test_loading_takes_a_warp(case_1):
    assert po.load(case_1.path, temperature=0.7, top_p=0.9).warp == Warp(0.7, top_p=0.9)


def test_dropout_never_plays_a_part():
    """A model in training mode with dropout 0.5 draws and scores as in evaluation."""
    model = tiny_model("gpt2").requires_grad_(False)
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    for layer in layers:
        layer.p = 0.5
    assert layers
    lm = po.CausalLM(model, word_tokenizer())
    model.train()
    drawn = lm.sample(PROMPTS, 10, 5, generator())
    plain = plain_log_probs(tiny_model("gpt2"), drawn)
    model.train()
    torch.testing.assert_close(lm.log_prob(drawn), plain, rtol=0, atol=AGREE)
    torch.testing.assert_close(drawn.log_prob_N, plain, rtol=0, atol=AGREE)


def test_reduced_precision_sums_are_not_quantised(case_1):
    """bfloat16 has 8 bits: sums of log-probs in it would be multiples of 1/64."""
    lm = po.load(case_1.path, dtype="bfloat16")
    drawn = lm.sample(PROMPTS, 50, 4, generator())
    assert drawn.log_prob_N.dtype == torch.float64
    value = lm.log_prob(drawn)
    assert value.dtype == torch.float64
    assert float((value * 64 % 1).abs().max()) > 0
    float32 = po.load(case_1.path).log_prob(drawn)
    assert float((value - float32).abs().mean()) < 0.05


def test_texts_are_decoded_without_special_tokens(lm):
    completions = lm.completions(["a"], [[1, 2, 0], [0], [3, 4, 5]], 3)
    assert completions.texts == ["a b", "", "c d e"]
    assert [WORDS[i] for i in completions.completion_ids[2]] == ["c", "d", "e"]

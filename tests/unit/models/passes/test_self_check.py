"""A model is checked at its first use: what it cannot do is not asked of it, or it is refused."""

from __future__ import annotations

import pytest
import torch
import transformers
from helpers import PROMPTS, generator, outcome_ids, plain_log_probs, tiny_model, word_tokenizer
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

import posteriori as po
from posteriori.errors import ModelError, PromptError
from posteriori.models.passes import uncached

BLOCK = {
    "vocab_size": 6,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
JAMBA = {
    **EXPERTS,
    "num_key_value_heads": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "use_mamba_kernels": False,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
}
LINEAR = {
    "num_key_value_heads": 1,
    "head_dim": 8,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 1,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
BART = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24}
MODELS = {
    "jamba": ("jamba", JAMBA),
    "mamba": ("mamba", {"state_size": 4}),
    "bart": ("bart", BART),
    "qwen3_5": ("qwen3_5_text", LINEAR),
    "mixtral": ("mixtral", {**EXPERTS, "num_key_value_heads": 1, "output_router_logits": True}),
}


def model_of(kind: str, settings: dict) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(kind, **{**BLOCK, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() >= 2 and "A_log" not in name and "conv" not in name:
                    parameter.normal_(std=0.4)
    return model.float().eval().requires_grad_(False)


def lm_of(name: str) -> po.CausalLM:
    return po.CausalLM(model_of(*MODELS[name]), word_tokenizer())


@pytest.mark.parametrize("name", MODELS)
def test_what_is_drawn_rescored_and_plain_agrees(name):
    lm = lm_of(name)
    drawn = lm.sample(PROMPTS, 12, 6, generator())
    rescored = lm.log_prob(drawn)
    torch.testing.assert_close(drawn.log_prob_N, rescored, rtol=0, atol=1e-4)
    torch.testing.assert_close(rescored, plain_log_probs(lm.model, drawn), rtol=0, atol=1e-4)
    outcomes = lm.completions(["a b"], outcome_ids(6, 3), 3)
    assert abs(float(lm.log_prob(outcomes).exp().sum()) - 1) < 1e-5


@pytest.mark.parametrize("name", ["jamba", "qwen3_5"])
def test_gradients_are_those_of_the_plain_pass(name):
    lm = lm_of(name)
    lm.model.requires_grad_(True)
    batch = lm.completions(["d e a c", "a"], [[1, 4, 2, 0], [2, 0]], 4)
    weights = [p for n, p in lm.model.named_parameters() if "embed" in n or "proj" in n]
    mine = torch.autograd.grad(lm.log_prob(batch).sum(), weights, allow_unused=True)
    plain = sum(
        lm.model(torch.tensor([[*batch.prompt_ids[at], *y]]), use_cache=False)
        .logits[0, len(batch.prompt_ids[at]) - 1 : -1]
        .log_softmax(-1)
        .gather(-1, torch.tensor(y)[:, None])
        .sum()
        for at, y in zip(batch.prompt_index_N.tolist(), batch.completion_ids, strict=True)
    )
    for a, b in zip(mine, torch.autograd.grad(plain, weights, allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_rows_of_a_model_without_a_cache_can_be_moved_and_branched():
    lm = lm_of("mamba")
    with lm.stepping(["a b", "c"], torch.tensor([0, 1, 1]), 4) as rows:
        rows.extend(torch.tensor([1, 2, 3]))
        rows.keep(torch.tensor([2, 1, 0]))
        other = rows.branch(torch.tensor([0, 0]))
        rows.extend(torch.tensor([4, 4, 4]))
        got = rows.logits_RV.log_softmax(-1)
        assert len(other.logits_RV) == 2
    for row, ids in enumerate(([3, 3, 4], [3, 2, 4], [1, 2, 1, 4])):
        plain = lm.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(got[row], plain, rtol=0, atol=1e-4)


def test_a_critic_reads_the_same_states_without_a_cache(monkeypatch):
    lm = po.CausalLM(tiny_model("gpt_neox").requires_grad_(False), word_tokenizer())
    batch = lm.completions(["d e a c", "a"], [[1, 4, 2, 0], [2, 0]], 4)
    cached = lm.features(batch)
    monkeypatch.setattr(
        "posteriori.models.execution.running_model.can_be_continued", lambda *args: False
    )
    torch.testing.assert_close(lm.features(batch), cached, rtol=0, atol=1e-4)


def test_a_model_that_looks_ahead_is_refused_by_name():
    lm = po.CausalLM(model_of("bert", {}), word_tokenizer())
    with pytest.raises(ModelError, match="BertLMHeadModel is no causal language model"):
        lm.sample(["a"], 2, 3, generator())


def test_a_check_is_made_once_and_takes_five_passes():
    model = tiny_model("gpt_neox").requires_grad_(False)
    lm, calls = po.CausalLM(model, word_tokenizer()), []
    batch = lm.completions(["a b"], [[1, 0]], 2)
    model.register_forward_pre_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        counts = []
        for _ in range(3):
            lm.log_prob(batch)
            counts.append(len(calls))
    assert counts[2] - counts[1] == 2, "the prompt and the completion"
    # The output head is watched once, too.
    assert counts[0] == 2 + 5 + 1


def test_a_mixture_of_experts_is_enumerated_in_float64():
    lm = lm_of("mixtral")
    target = po.Target(lm, po.Reward(length, beta=1.0), ["a b"], 2)
    outcomes = lm.completions(["a b"], outcome_ids(6, 2), 2)
    want = (lm.log_prob(outcomes) + outcomes.lengths_N).logsumexp(0)
    assert abs(float(po.exact(target).log_z[0]) - float(want)) < 1e-4


def windowed(module, q, k, v, attention_mask, scaling=None, **kwargs):
    """Causal attention to the last three tokens alone."""
    queries, keys = q.shape[-2], k.shape[-2]
    i, j = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)[None]
    allowed = ((j <= i) & (j > i - 3))[None, None]
    if attention_mask is not None:
        allowed = allowed & attention_mask
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    score = (q @ k.transpose(2, 3) * scaling).masked_fill(~allowed, -1e9)
    return (score.softmax(-1) @ v).transpose(1, 2), None


def test_attention_that_was_registered_is_not_passed_by():
    AttentionInterface.register("three_tokens", windowed)
    AttentionMaskInterface.register("three_tokens", sdpa_mask)
    model = tiny_model("llama").requires_grad_(False)
    model.set_attn_implementation("three_tokens")
    lm = po.CausalLM(model, word_tokenizer())
    batch = lm.completions(["d e a c b"], [[1, 4, 2, 3, 1, 0]], 6)
    torch.testing.assert_close(lm.log_prob(batch), plain_log_probs(model, batch))


def test_a_length_at_which_positions_change_is_not_crossed():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "short_factor": [1.0] * 4,
        "original_max_position_embeddings": 6,
    }
    settings = {"original_max_position_embeddings": 6, "rope_parameters": rope}
    model = model_of("phi3", {"num_key_value_heads": 2, **settings})
    lm = po.CausalLM(model, word_tokenizer())
    with pytest.raises(PromptError, match="longrope"):
        lm.sample(["a b", "c d e a b c d"], 2, 3, generator())
    for prompts in (["a b", "c"], ["a b c d e a b c", "c d e a b c d"]):
        drawn = lm.sample(prompts, 6, 3, generator())
        plain = plain_log_probs(model, drawn)
        torch.testing.assert_close(drawn.log_prob_N, plain, rtol=0, atol=1e-4)
        torch.testing.assert_close(lm.log_prob(drawn), plain, rtol=0, atol=1e-4)


def test_a_compiled_model_is_run_as_it_was_before():
    model = tiny_model("gpt2").requires_grad_(False)
    lm = po.CausalLM(torch.compile(model), word_tokenizer())
    assert lm.model is model


def test_a_row_that_is_gathered_from_the_wrong_column_is_found(monkeypatch):
    """A mutant of the slow way: the last columns of all rows, whatever their lengths."""
    monkeypatch.setattr(uncached, "_last", lambda out, width, lengths, count: out[:, -count:])
    lm = lm_of("mamba")
    drawn = lm.sample(PROMPTS, 12, 6, generator())
    assert float((drawn.log_prob_N - plain_log_probs(lm.model, drawn)).abs().max()) > 0.1


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]

"""A GGUF file is loaded as plain weights, which can be saved and trained like any others."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import posteriori as po

WIDTH, INNER, LAYERS, HEADS = 32, 64, 2, 2
SYMBOLS = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
TOKENS = ["<eos>", *SYMBOLS, "ab"]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """A llama of two layers with 8-bit matrices."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_merges(["a b"])
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = random.normal(size=shape).astype(np.float32)
        quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def add_norm(name: str) -> None:
        writer.add_tensor(name, np.ones(WIDTH, dtype=np.float32))

    add("token_embd.weight", len(TOKENS), WIDTH)
    add("output.weight", len(TOKENS), WIDTH)
    add_norm("output_norm.weight")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        add_norm(f"{block}.attn_norm.weight")
        add_norm(f"{block}.ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{part}.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", INNER, WIDTH)
        add(f"{block}.ffn_up.weight", INNER, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_is_saved_as_plain_weights(path, tmp_path):
    lm = po.load(path)
    draws = lm.sample(["a b"], 4, 5, torch.Generator().manual_seed(0))
    lm.save_pretrained(tmp_path / "saved")
    again = po.load(tmp_path / "saved")
    torch.testing.assert_close(again.log_prob(draws), lm.log_prob(draws))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert not hasattr(plain.config, "quantization_config")


def test_is_trained(path, tmp_path):
    prior = po.load(path)
    evidence = po.Reward(lambda completions, **_: [float("a" in text) for text in completions], 1.0)
    target = po.Target(prior, [evidence], ["a b"], max_new_tokens=4)
    fit = po.fit(
        target, "rloo", steps=2, num_samples=4, learning_rate=1e-3, output_dir=tmp_path / "run"
    )
    loaded = po.load(tmp_path / "run" / "policy")
    draws = fit.policy.sample(["a b"], 4, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.log_prob(draws), fit.policy.log_prob(draws).detach())

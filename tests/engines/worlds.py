"""A small model that vLLM can run: its attention on a CPU has heads of 32 and more."""

from __future__ import annotations

import torch
from helpers import WORDS, reward, word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import posteriori as po

PROMPTS = ["a b", "c", "d e a c"]
LENGTH = 4


def small_lm() -> po.CausalLM:
    """Two layers, six tokens; its prompts are 0.4 to 1.2 nats from the target."""
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.15,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return po.CausalLM(model, word_tokenizer())


def small_target() -> po.Target:
    return po.Target(small_lm(), po.Reward(reward, beta=0.5), PROMPTS, LENGTH)

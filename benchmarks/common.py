"""What the benchmarks share: a tiny GPT-2, paired timing, and a table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(996)]
GPT2_TOKENS = 50_257


def tokenizer(tokens: int = 1000) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of so many ids, with an end of sequence and a padding token."""
    words = [f"w{i}" for i in range(tokens - 4)]
    vocabulary = {name: at for at, name in enumerate(["<eos>", "<pad>", "<unk>", "<bos>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )


def tiny_gpt2(seed: int = 0, tokens: int = 1000) -> GPT2LMHeadModel:
    """Two layers, 64 wide, random weights: with few tokens a step is overhead as much as
    arithmetic."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=tokens,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=256,
        bos_token_id=3,
        eos_token_id=0,
        pad_token_id=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config).eval()


def prompts(count: int) -> list[str]:
    """Prompts of different lengths, from one to five words."""
    return [" ".join(WORDS[(7 * i + j) % 996] for j in range(1 + i % 5)) for i in range(count)]


def paired(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[float]:
    """Median seconds of both, run in turns (A B A B) so that drift of the machine hits both."""
    ours()
    theirs()
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for place, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            times[place].append(time.perf_counter() - start)
    return [statistics.median(each) for each in times]

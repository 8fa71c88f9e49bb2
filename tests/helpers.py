"""What the tests share: the oracle's cases, tiny models, and references that share no code with the
library."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import posteriori as po

ORACLE = Path(__file__).parent / "data" / "oracle"
CASES = ("case_1", "case_2")
BETAS = (2.0, 1.0, 0.5, 0.25, 0.1)
A, B, C, D, E = range(1, 6)
EOS = 0
WORDS = ("<eos>", "a", "b", "c", "d", "e")
PROMPTS = ("a b", "c", "d e a c")


def reward(completion_ids, **kwargs):
    """The oracle's reward: 1 a "b", -0.5 a "d", 0.3 for an end of sequence."""
    return [
        sum((t == B) - 0.5 * (t == D) for t in y) + 0.3 * (y[-1] == EOS) for y in completion_ids
    ]


def has_c(completion_ids, **kwargs):
    return [C in y for y in completion_ids]


@dataclass(frozen=True)
class OracleCase:
    """One case of `data/oracle`: its models, and the figures made by brute force."""

    name: str

    @cached_property
    def table(self) -> dict:
        return _table(self.name)

    @property
    def prompts(self) -> list[str]:
        return self.table["prompts"]

    @property
    def outcomes(self) -> list[list[int]]:
        return self.table["outcomes"]

    @property
    def path(self) -> Path:
        return ORACLE / self.name / "model"

    def prior(self) -> po.CausalLM:
        return po.load(self.path)

    def expert(self) -> po.CausalLM:
        return po.load(ORACLE / self.name / "expert")

    def target(self, beta: float = 0.5, prior: po.CausalLM | None = None) -> po.Target:
        return po.Target(
            prior=prior or self.prior(),
            evidence=[po.Reward(reward, beta=beta)],
            prompts=self.prompts,
            max_new_tokens=4,
        )

    def all_outcomes(self, lm) -> po.Completions:
        """Every outcome of every prompt, prompt by prompt, in the table's order."""
        prompts = [prompt for prompt in self.prompts for _ in self.outcomes]
        return lm.completions(prompts, self.outcomes * len(self.prompts), 4)

    def prior_log_prob(self) -> Tensor:
        """The table's log pi0(y|c) in the order of `all_outcomes`."""
        rows = [self.table["exact"][prompt]["prior_log_prob"] for prompt in self.prompts]
        return torch.tensor(rows, dtype=torch.float64).flatten()

    def figures(self, *path: str) -> dict[str, np.ndarray]:
        """The table's figures at `exact.<prompt>.<path>`, an array over prompts each."""
        rows = []
        for prompt in self.prompts:
            row = self.table["exact"][prompt]
            for key in path:
                row = row[key]
            rows.append(row)
        return {key: np.array([row[key] for row in rows]) for key in rows[0]}


@lru_cache
def _table(name: str) -> dict:
    return json.loads((ORACLE / name / "oracle.json").read_text())


def word_tokenizer(padding_side: str = "left", words: Sequence[str] = WORDS, **settings):
    """A whitespace tokenizer over `words`; the first one is EOS and padding at once."""
    table = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0])
    )
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=table,
        eos_token=words[0],
        pad_token=words[0],
        padding_side=padding_side,
        **settings,
    )


_SMALL = {"vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
_BLOCKS = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
_GROUPED = {**_BLOCKS, "num_key_value_heads": 1, "head_dim": 8}

# Name -> (family, settings on top of _SMALL): rotary, learned and ALiBi positions, grouped heads,
# sliding windows shorter than the sequences, soft-capped logits, with and without position ids.
ARCHITECTURES: dict[str, tuple[str, dict]] = {
    "gpt2": ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    "llama": ("Llama", _GROUPED),
    "qwen2": ("Qwen2", _BLOCKS | {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3", _GROUPED),
    "gpt_neox": ("GPTNeoX", _BLOCKS),
    "mistral, window of 3": ("Mistral", _GROUPED | {"sliding_window": 3}),
    "gemma": ("Gemma", _GROUPED),
    "gemma2, window of 3": ("Gemma2", _GROUPED | {"sliding_window": 3}),
    "phi": ("Phi", _BLOCKS),
    "opt": (
        "OPT",
        {
            "hidden_size": 16,
            "ffn_dim": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "word_embed_proj_dim": 16,
            "dropout": 0.0,
        },
    ),
    "bloom": ("Bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
}


def tiny_model(architecture: str = "gpt2", seed: int = 0, scale: float = 0.5) -> PreTrainedModel:
    """A random model of that architecture over `WORDS`, with matrices large enough to matter."""
    family, settings = ARCHITECTURES[architecture]
    config = getattr(transformers, f"{family}Config")(**(_SMALL | settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=scale)
    return model.eval()


def tiny_lm(architecture: str = "gpt2", seed: int = 0, **settings) -> po.CausalLM:
    tokenizer = settings.pop("tokenizer", None) or word_tokenizer()
    return po.CausalLM(tiny_model(architecture, seed).requires_grad_(False), tokenizer, **settings)


@torch.no_grad()
def plain_log_prob(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    warp: Callable[[Tensor, int], Tensor] | None = None,
) -> float:
    """log pi(y|c) from one plain forward pass of one unpadded sequence, without a cache.

    `warp` maps the logits [V] of a step and its number to what they are replaced by.
    """
    ids = torch.tensor([[*prompt_ids, *completion_ids]])
    logits = model(ids, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].double()
    if warp is not None:
        logits = torch.stack([warp(row, step) for step, row in enumerate(logits)])
    chosen = logits.log_softmax(-1).gather(-1, torch.tensor(completion_ids)[:, None])
    return float(chosen.sum())


def plain_log_probs(model: PreTrainedModel, completions: po.Completions, warp=None) -> Tensor:
    return torch.tensor(
        [
            plain_log_prob(model, completions.prompt_ids[index], ids, warp)
            for index, ids in zip(
                completions.prompt_index_N.tolist(), completions.completion_ids, strict=True
            )
        ],
        dtype=torch.float64,
    )


def outcome_ids(words: int, depth: int, eos: Sequence[int] = (EOS,)) -> list[list[int]]:
    """Every outcome over `words` token ids, written down by recursion."""
    going_on = [token for token in range(words) if token not in eos]

    def after(prefix: list[int]) -> list[list[int]]:
        if len(prefix) == depth:
            return [prefix]
        ended = [[*prefix, token] for token in eos]
        return ended + [y for token in going_on for y in after([*prefix, token])]

    return after([])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rms(values) -> float:
    return math.sqrt(float(np.mean(np.square(values))))


def tiny_bert(kind: str, folder: Path, **settings) -> Path:
    """A transformers BERT of one layer with its tokenizer, saved; its head is drawn by seed 0."""
    config = transformers.BertConfig(
        vocab_size=6,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        pad_token_id=0,
        initializer_range=1.0,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(transformers, kind).from_config(config).save_pretrained(folder)
    word_tokenizer(words=("<pad>", *"abcde")).save_pretrained(folder)
    return folder

"""Tiny targets of which everything is known: tables, and transformers models built in code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from posteriori.core.completions import Completions
from posteriori.core.protocols import LanguageModel
from posteriori.core.target import Target
from posteriori.diagnostics.exact.exact import Exact, exact
from posteriori.errors import UnknownNameError, did_you_mean
from posteriori.evidence.constraint import Constraint
from posteriori.evidence.reward import Reward
from posteriori.models.causal import CausalLM
from posteriori.models.tabular import TabularLM

WORDS = ("<eos>", "a", "b")
PROMPTS = ("x", "y")

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    "llama": (
        "Llama",
        {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 32,
        },
    ),
    "gpt_neox": (
        "GPTNeoX",
        {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
        },
    ),
}
"""Name -> family in transformers, and the settings of a very small one."""


@dataclass(frozen=True)
class Case:
    """A target with its exact answers, and a second language model over the same tokens.

    Attributes:
        target: p* = prior x evidence / Z.
        exact: log Z, p*, KL and all that `posteriori.exact` gives.
        proposal: a language model that is not the target's prior.

    Example:
        >>> from posteriori import testing
        >>> testing.table_case().target.max_new_tokens
        2
    """

    target: Target
    exact: Exact
    proposal: LanguageModel


def uneven_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Neither additive over tokens, nor blind to the end of the sequence; in [-1, 1]."""
    return [
        math.sin(1.0 + sum((3 * token + 1) * (at + 1) for at, token in enumerate(ids)))
        for ids in completion_ids
    ]


def begins_with_b(completion_ids: list[list[int]], **_: Any) -> list[bool]:
    return [ids[0] == 2 for ids in completion_ids]


def table_case(depth: int = 2, *, hard: bool = False, beta: float = 0.7, seed: int = 3) -> Case:
    """A case of random tables over two words and the end of sequence, with two prompts.

        p*(y|c) ~ prior(y|c) exp(r(y) / beta),   with `hard` only where y begins with "b"

    Args:
        depth: max_new_tokens; there are 2^(depth + 1) - 1 outcomes per prompt.
        hard: whether evidence rules outcomes out.
        beta: of the reward, which lies in [-1, 1].
        seed: of the tables, a seed apart for the proposal.

    Returns:
        The case.

    Raises:
        ConfigError: for a depth below 1.

    Example:
        >>> from posteriori import testing
        >>> testing.table_case().exact.log_z.round(3).tolist()
        [0.912, 0.768]
    """
    evidence: list[Any] = [Reward(uneven_reward, beta=beta)]
    if hard:
        evidence.append(Constraint(begins_with_b, prefix=begins_with_b))
    prior = TabularLM.random(WORDS, depth, PROMPTS, seed=seed)
    target = Target(prior, evidence, PROMPTS, depth)
    proposal = TabularLM.random(WORDS, depth, PROMPTS, seed=seed + 2)
    return Case(target, exact(target), proposal)


def model_case(
    architecture: str = "gpt2", *, depth: int = 3, beta: float = 0.7, seed: int = 0
) -> Case:
    """A case of random transformers models, with prompts of different lengths.

        p*(y|c) ~ prior(y|c) exp(r(y) / beta)

    Args:
        architecture: one of `ARCHITECTURES`.
        depth: max_new_tokens.
        beta: of the reward.
        seed: of the weights, a seed apart for the proposal.

    Returns:
        The case.

    Raises:
        UnknownNameError: for another architecture.

    Example:
        >>> from posteriori import testing
        >>> len(testing.model_case("llama").exact.log_z)
        2
    """
    prior, proposal = (random_model(architecture, each) for each in (seed, seed + 1))
    target = Target(prior, Reward(uneven_reward, beta=beta), ["a", "b a b"], depth)
    return Case(target, exact(target), proposal)


def random_model(architecture: str, seed: int) -> CausalLM:
    """Over `WORDS`, with matrices large enough to matter."""
    import transformers

    if architecture not in ARCHITECTURES:
        raise UnknownNameError(
            f"unknown architecture '{architecture}'", hint=did_you_mean(architecture, ARCHITECTURES)
        )
    family, settings = ARCHITECTURES[architecture]
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    kind: Any = getattr(transformers, f"{family}Config")
    config = kind(vocab_size=len(WORDS), **special, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.5)
    return CausalLM(model.requires_grad_(False), _word_tokenizer())


def _word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {word: at for at, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(table, unk_token=WORDS[0]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=WORDS[0], pad_token=WORDS[0], padding_side="left"
    )


def outcomes_of(lm: LanguageModel, prompt: str, depth: int, words: int) -> Completions:
    """Every outcome of a prompt: each ends with token 0, or has `depth` tokens without it.

    Args:
        lm: the language model that makes the batch.
        prompt: the prompt.
        depth: the longest outcome, in tokens.
        words: how many of the tokens outcomes are made of, 0 included.

    Returns:
        The completions, one per outcome.

    Raises:
        PromptError: for a prompt that the language model does not take.

    Example:
        >>> from posteriori import testing
        >>> case = testing.table_case()
        >>> len(testing.outcomes_of(case.target.prior, "x", depth=2, words=3))
        7
    """
    ids: list[list[int]] = []

    def after(prefix: list[int]) -> None:
        if len(prefix) == depth:
            ids.append(prefix)
            return
        ids.append([*prefix, 0])
        for token in range(1, words):
            after([*prefix, token])

    after([])
    return lm.completions([prompt], ids, depth)

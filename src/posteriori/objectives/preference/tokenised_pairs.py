"""Pairs of completions from preference data: their tokens, and which come next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from posteriori.core.hooks import context_of, tokenizer_of
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.core.tensors import distinct_places, ints
from posteriori.core.types import Completions, Prompt, prompt_key
from posteriori.data.conversation import answered
from posteriori.data.preferences import Preference
from posteriori.errors import ModelError, OutcomeError, PosterioriError, PromptError


class PreferenceData:
    """Tokenised pairs, in shuffled passes that are a function of the seed.

    Completion 2i is what pair i prefers to completion 2i + 1. Each is an outcome of the target: it
    ends with its first EOS, or is cut at `max_new_tokens`. Raises `PromptError` for a prompt that
    leaves no room in the model's context, with the place it was read from.
    """

    def __init__(self, pairs: Sequence[Preference], target: Target, seed: int) -> None:
        self.seed = seed
        lm: Any = target.prior
        once = {prompt_key(pair.prompt): pair for pair in reversed(pairs)}
        encoded = {key: _encoded(lm, pair) for key, pair in once.items()}
        prompt_ids = [encoded[prompt_key(pair.prompt)] for pair in pairs]
        ids = _completion_ids(lm, pairs, prompt_ids, target.max_new_tokens)
        context = context_of(lm)
        for at, (pair, start) in enumerate(zip(pairs, prompt_ids, strict=True)):
            longest = max(len(ids[2 * at]), len(ids[2 * at + 1]))
            if context is not None and len(start) + longest > context:
                raise PromptError(
                    f"the prompt has {len(start)} tokens and its longer completion {longest}, "
                    f"but the model's context holds {context}",
                    where=pair.where,
                    hint="remove the row, shorten its prompt, or lower max_new_tokens",
                )
        text = json.dumps([prompt_ids, ids])
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        prompts: list[Prompt] = [pair.prompt for pair in pairs for _ in range(2)]
        self.all: Completions = lm.completions(prompts, ids, target.max_new_tokens)

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.all) // 2

    def rows(self, first: int, count: int) -> Tensor:
        """The completions of the pairs whose turns are `first`, `first` + 1, ..; [2 count]."""
        turns = torch.arange(first, first + count)
        epochs = range(first // len(self), (first + count - 1) // len(self) + 1)
        orders = [
            torch.randperm(len(self), generator=generator(self.seed, "pairs", epoch))
            for epoch in epochs
        ]
        pairs = torch.cat(orders)[turns - epochs[0] * len(self)]
        return (2 * pairs[:, None] + torch.arange(2)).flatten()

    def completions(self, rows: Tensor) -> Completions:
        """Those completions, with their own prompts alone."""
        chosen = self.all.select(rows)
        used_P, prompt_index_N = distinct_places(chosen.prompt_index_N)
        used = ints(used_P)
        return replace(
            chosen,
            prompt_set=tuple(chosen.prompt_set[at] for at in used),
            prompt_ids=tuple(chosen.prompt_ids[at] for at in used),
            prompt_index_N=prompt_index_N,
            tokens_NL=chosen.tokens_NL[:, : int(chosen.lengths_N.max())],
        )


FEWEST_PROMPTS = 20
"""From so many prompts on some are held out: fewer would judge nothing."""


def held_out_pairs(
    pairs: Sequence[Preference], share: float, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """Those to train on and those that judge: the pairs of a share of the prompts, whole."""
    keys = list(dict.fromkeys(prompt_key(pair.prompt) for pair in pairs))
    if not share or len(keys) < FEWEST_PROMPTS:
        return list(pairs), []
    order = ints(torch.randperm(len(keys), generator=generator(seed, "held-out pairs")))
    held = {keys[at] for at in order[: max(1, round(share * len(keys)))]}
    return (
        [pair for pair in pairs if prompt_key(pair.prompt) not in held],
        [pair for pair in pairs if prompt_key(pair.prompt) in held],
    )


def _encoded(lm: Any, pair: Preference) -> list[int]:
    try:
        return list(lm.encode(pair.prompt))
    except PosterioriError as error:
        raise type(error)(error.what, where=pair.where, hint=error.hint) from error


def _completion_ids(
    lm: Any, pairs: Sequence[Preference], prompt_ids: list[list[int]], max_new_tokens: int
) -> list[list[int]]:
    """chosen and rejected of each pair, one after another, as outcomes."""
    replies = [reply for pair in pairs for reply in (pair.chosen, pair.rejected)]
    of_text = [at for at, reply in enumerate(replies) if isinstance(reply, str)]
    ids = [list(reply) if not isinstance(reply, str) else [] for reply in replies]
    for at, tokens in zip(of_text, _tokens(lm, pairs, prompt_ids, of_text), strict=True):
        ids[at] = tokens
    eos = set(lm.eos_token_ids)
    tokenizer = tokenizer_of(lm)
    of_tokenizer: Any = None if tokenizer is None else tokenizer.eos_token_id
    ending = of_tokenizer if of_tokenizer in eos else lm.eos_token_ids[0]
    whole = [_outcome(each, eos, int(ending), max_new_tokens) for each in ids]
    for at, each in enumerate(whole):
        if not all(0 <= token < lm.vocab_size for token in each):
            raise OutcomeError(
                f"{each} has an id outside the vocabulary of {lm.vocab_size}",
                where=pairs[at // 2].where,
            )
    return whole


def _outcome(ids: list[int], eos: set[int], ending: int, max_new_tokens: int) -> list[int]:
    first_end = next((at for at, token in enumerate(ids) if token in eos), None)
    ended = [*ids, ending] if first_end is None else ids[: first_end + 1]
    return ended[:max_new_tokens]


def _tokens(
    lm: Any, pairs: Sequence[Preference], prompt_ids: list[list[int]], rows: list[int]
) -> list[list[int]]:
    """What follows the prompt's tokens in those of prompt and completion together, as the tokens at
    the seam depend on both; where a token straddles it, the completion's own tokens."""
    if not rows:
        return []
    tokenizer = tokenizer_of(lm)
    if tokenizer is None:
        raise ModelError(
            f"the prior is a {type(lm).__name__}, which has no tokenizer for the pairs' texts",
            where=pairs[rows[0] // 2].where,
            hint="give 'chosen' and 'rejected' as lists of token ids",
        )
    replies = [(pairs[row // 2].chosen, pairs[row // 2].rejected)[row % 2] for row in rows]
    prompts = [pairs[row // 2].prompt for row in rows]
    alone = tokenizer(replies, add_special_tokens=False)["input_ids"]
    joint: list[list[int]] = [[] for _ in rows]
    plain = [at for at, prompt in enumerate(prompts) if isinstance(prompt, str)]
    chats = [at for at, prompt in enumerate(prompts) if not isinstance(prompt, str)]
    if plain:
        texts = [f"{prompts[at]}{replies[at]}" for at in plain]
        for at, ids in zip(plain, tokenizer(texts)["input_ids"], strict=True):
            joint[at] = ids
    if chats:
        asked: list[Any] = [(prompts[at], replies[at]) for at in chats]
        talks = [answered(*each) for each in asked]
        encoded = tokenizer.apply_chat_template(talks, tokenize=True, return_dict=True)
        for at, ids in zip(chats, encoded["input_ids"], strict=True):
            joint[at] = ids
    found: list[list[int]] = []
    for at, row in enumerate(rows):
        start = prompt_ids[row // 2]
        follows = len(joint[at]) > len(start) and joint[at][: len(start)] == start
        found.append(joint[at][len(start) :] if follows else alone[at])
    return found

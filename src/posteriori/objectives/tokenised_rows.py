"""Completions from a user's rows: their tokens, and which come next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.hooks import context_of, tokenizer_of
from posteriori.core.occurrence import Prompt, prompt_key
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.core.tensors import distinct_places, ints
from posteriori.data.conversation import answered
from posteriori.errors import ModelError, OutcomeError, PosterioriError, PromptError

Reply = str | list[int]
"""A completion as text (of a conversation: the assistant's next message) or as token ids."""


class Row(NamedTuple):
    """What was written after a prompt: one completion, or a pair. `where` is its place."""

    prompt: Prompt
    replies: tuple[Reply, ...]
    where: str


class TokenisedRows:
    """Tokenised rows, in shuffled passes that are a function of the seed and the `stream`'s name.

    Rows have k replies each, and completions k i to k i + k - 1 are those of row i. Each is an
    outcome of the target: it ends with its first EOS, or is cut at `max_new_tokens`. Raises
    `PromptError` for a prompt that leaves no room in the model's context, with the place it was
    read from.
    """

    def __init__(self, rows: Sequence[Row], target: Target, seed: int, stream: str) -> None:
        self.seed, self.stream, self.each = seed, stream, len(rows[0].replies)
        lm: Any = target.prior
        once = {prompt_key(row.prompt): row for row in reversed(rows)}
        encoded = {key: _encoded(lm, row) for key, row in once.items()}
        prompt_ids = [encoded[prompt_key(row.prompt)] for row in rows]
        ids = _completion_ids(lm, rows, prompt_ids, target.max_new_tokens)
        context = context_of(lm)
        for at, (row, start) in enumerate(zip(rows, prompt_ids, strict=True)):
            longest = max(map(len, ids[self.each * at : self.each * (at + 1)]))
            if context is not None and len(start) + longest > context:
                longer = "its longer completion" if self.each > 1 else "its completion"
                raise PromptError(
                    f"the prompt has {len(start)} tokens and {longer} {longest}, "
                    f"but the model's context holds {context}",
                    where=row.where,
                    hint="remove the row, shorten its prompt, or lower max_new_tokens",
                )
        text = json.dumps([prompt_ids, ids])
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        prompts: list[Prompt] = [row.prompt for row in rows for _ in range(self.each)]
        self.all: Completions = lm.completions(prompts, ids, target.max_new_tokens)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.all) // self.each

    def rows(self, first: int, count: int) -> Tensor:
        """The completions of the rows whose turns are `first`, `first` + 1, ..; [k count]."""
        turns = torch.arange(first, first + count)
        epochs = range(first // len(self), (first + count - 1) // len(self) + 1)
        orders = [
            torch.randperm(len(self), generator=generator(self.seed, self.stream, epoch))
            for epoch in epochs
        ]
        rows = torch.cat(orders)[turns - epochs[0] * len(self)]
        return (self.each * rows[:, None] + torch.arange(self.each)).flatten()

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


def _encoded(lm: Any, row: Row) -> list[int]:
    try:
        return list(lm.encode(row.prompt))
    except PosterioriError as error:
        raise type(error)(error.what, where=row.where, hint=error.hint) from error


def _completion_ids(
    lm: Any, rows: Sequence[Row], prompt_ids: list[list[int]], max_new_tokens: int
) -> list[list[int]]:
    """The replies of each row, one after another, as outcomes."""
    replies = [reply for row in rows for reply in row.replies]
    whose = [at for at, row in enumerate(rows) for _ in row.replies]
    of_text = [at for at, reply in enumerate(replies) if isinstance(reply, str)]
    ids = [list(reply) if not isinstance(reply, str) else [] for reply in replies]
    encoded = _tokens(lm, rows, prompt_ids, replies, whose, of_text)
    for at, tokens in zip(of_text, encoded, strict=True):
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
                where=rows[whose[at]].where,
            )
    return whole


def _outcome(ids: list[int], eos: set[int], ending: int, max_new_tokens: int) -> list[int]:
    first_end = next((at for at, token in enumerate(ids) if token in eos), None)
    ended = [*ids, ending] if first_end is None else ids[: first_end + 1]
    return ended[:max_new_tokens]


def _tokens(
    lm: Any,
    rows: Sequence[Row],
    prompt_ids: list[list[int]],
    replies: list[Any],
    whose: list[int],
    chosen: list[int],
) -> list[list[int]]:
    """What follows the prompt's tokens in those of prompt and completion together, as the tokens at
    the seam depend on both; where a token straddles it, the completion's own tokens."""
    if not chosen:
        return []
    tokenizer = tokenizer_of(lm)
    if tokenizer is None:
        raise ModelError(
            f"the prior is a {type(lm).__name__}, which has no tokenizer for the rows' texts",
            where=rows[whose[chosen[0]]].where,
            hint="give completions as lists of token ids",
        )
    texts = [replies[at] for at in chosen]
    prompts = [rows[whose[at]].prompt for at in chosen]
    alone = tokenizer(texts, add_special_tokens=False)["input_ids"]
    joint: list[list[int]] = [[] for _ in chosen]
    plain = [at for at, prompt in enumerate(prompts) if isinstance(prompt, str)]
    chats = [at for at, prompt in enumerate(prompts) if not isinstance(prompt, str)]
    if plain:
        whole = [f"{prompts[at]}{texts[at]}" for at in plain]
        for at, ids in zip(plain, tokenizer(whole)["input_ids"], strict=True):
            joint[at] = ids
    if chats:
        asked: list[Any] = [(prompts[at], texts[at]) for at in chats]
        talks = [answered(*each) for each in asked]
        encoded = tokenizer.apply_chat_template(talks, tokenize=True, return_dict=True)
        for at, ids in zip(chats, encoded["input_ids"], strict=True):
            joint[at] = ids
    found: list[list[int]] = []
    for at, row in enumerate(chosen):
        start = prompt_ids[whose[row]]
        follows = len(joint[at]) > len(start) and joint[at][: len(start)] == start
        found.append(joint[at][len(start) :] if follows else alone[at])
    return found

"""Completions of prompts: token ids as ragged rows, and whose they are.

The outcome space. For a prompt c and T = `max_new_tokens`, an outcome y is a token sequence that
either ends with its first end-of-sequence token at length <= T (that token belongs to y and its
log-prob counts), or has length T and no such token (truncated). Under any autoregressive model
these outcomes are exclusive and exhaustive, so sum_y pi(y|c) = 1. Every log-prob, KL, entropy and
log Z of the library is over this space, in nats per completion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import torch
from torch import Tensor

from posteriori.errors import OutcomeError

from .display.shown import counted
from .occurrence import Prompt, place_of, prompt_key
from .tensors import cat_padded, distinct_places, ints, rows_of_ints

ReplyT = TypeVar("ReplyT")


@dataclass(frozen=True, repr=False)
class Completions:
    """N completions of P prompts, as ragged rows in one padded tensor.

    `LanguageModel.sample` and `LanguageModel.completions` make them. `tokens_NL` is filled up with
    zeros that mean nothing: `lengths_N` alone says where a row ends, so a padding id can never be
    mistaken for a token.

    Args:
        prompt_set: the P prompts.
        prompt_ids: the token ids of each.
        prompt_index_N: which of them each completion follows, [N].
        tokens_NL: token ids, end of sequence included, [N, L].
        lengths_N: how many of them belong to the completion, [N].
        ended_N: whether the last one is an end of sequence, [N].
        max_new_tokens: the length T at which completions are cut.
        decode: turns ids into texts.
        token_log_prob_NL: log-probs under the distribution that drew the completions, float64 [N,
            L], nats, zero beyond a row's end; None where they were not drawn.
        own_NL: True on the tokens that a language model drew, where an environment has put in
            others (`posteriori.InEnvironment`), [N, L]; None: all of a completion's are.
        replies: what the environment said in each completion, turn by turn; None without one.

    Example:
        >>> batch = prior.completions(prompts=["x"], completion_ids=[[1, 2, 0]])
        >>> batch.lengths_N, batch.completion_ids
        (tensor([3]), [[1, 2, 0]])
    """

    prompt_set: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    prompt_index_N: Tensor
    tokens_NL: Tensor
    lengths_N: Tensor
    ended_N: Tensor
    max_new_tokens: int
    decode: Callable[[list[list[int]]], list[str]] = field(repr=False, compare=False)
    token_log_prob_NL: Tensor | None = None
    own_NL: Tensor | None = None
    replies: tuple[tuple[Any, ...], ...] | None = None

    def __len__(self) -> int:
        return self.tokens_NL.shape[0]

    def __repr__(self) -> str:
        asked = counted(len(self.prompt_set), "prompt")
        return f"Completions({len(self):,} of {asked}, at most {self.max_new_tokens} tokens)"

    @cached_property
    def log_prob_N(self) -> Tensor | None:
        """log q(y|c) under the distribution q that drew it, end of sequence included; [N]."""
        return None if self.token_log_prob_NL is None else self.token_log_prob_NL.sum(-1)

    @cached_property
    def completion_ids(self) -> list[list[int]]:
        """Each completion's token ids, end-of-sequence included and no padding."""
        rows = zip(rows_of_ints(self.tokens_NL), ints(self.lengths_N), strict=True)
        width = self.tokens_NL.shape[1]
        return [row if length == width else row[:length] for row, length in rows]

    @cached_property
    def texts(self) -> list[str]:
        """Each completion as text, without special tokens. Decoded once, when first asked for."""
        return self.decode(self.completion_ids)

    @cached_property
    def turns(self) -> list[list[str]]:
        """The texts of what a language model drew, turn by turn, without what an environment said;
        one turn where there is none."""
        if self.own_NL is None:
            return [[text] for text in self.texts]
        owned = zip(self.completion_ids, rows_of_ints(self.own_NL.long()), strict=True)
        runs = [_own_runs(ids, own) for ids, own in owned]
        texts = iter(self.decode([turn for row in runs for turn in row]))
        return [[next(texts) for _ in row] for row in runs]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Each completion's own prompt: as many as there are completions."""
        return [self.prompt_set[i] for i in ints(self.prompt_index_N)]

    @property
    def truncated_N(self) -> Tensor:
        """True where the completion ran into `max_new_tokens` before it ended."""
        return ~self.ended_N

    @property
    def mask_NL(self) -> Tensor:
        """True on the tokens that belong to a completion."""
        columns = torch.arange(self.tokens_NL.shape[1], device=self.tokens_NL.device)
        return columns < self.lengths_N[:, None]

    @property
    def own_mask_NL(self) -> Tensor:
        """True on the tokens that a language model drew: what its log-probs are of."""
        return self.mask_NL if self.own_NL is None else self.mask_NL & self.own_NL

    def distinct_prompts(self) -> tuple[list[tuple[int, ...]], Tensor]:
        """The ids of every prompt that has a completion, and which of them each one has [N]."""
        used_P, parent_N = distinct_places(self.prompt_index_N)
        return [self.prompt_ids[at] for at in ints(used_P)], parent_N

    def distinct_prefixes(self, start_N: Tensor) -> tuple[Tensor, Tensor]:
        """Every (prompt, y_1 .. y_start) once, and which of them each completion begins with [N].

        A row of the first tensor is the prompt's position, the number of tokens and the tokens.
        """
        columns = torch.arange(self.tokens_NL.shape[1], device=self.tokens_NL.device)
        kept_NL = self.tokens_NL.masked_fill(columns >= start_N[:, None], 0)
        key_NK = torch.cat([self.prompt_index_N[:, None], start_N[:, None], kept_NL], dim=1)
        return distinct_places(key_NK, dim=0)

    def select(self, index: Tensor | Sequence[int] | slice) -> Completions:
        """The completions at `index` (positions, a mask or a slice), in that order."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.tokens_NL.device)
        return replace(
            self,
            prompt_index_N=self.prompt_index_N[index],
            tokens_NL=self.tokens_NL[index],
            lengths_N=self.lengths_N[index],
            ended_N=self.ended_N[index],
            token_log_prob_NL=(
                None if self.token_log_prob_NL is None else self.token_log_prob_NL[index]
            ),
            own_NL=None if self.own_NL is None else self.own_NL[index],
            replies=None if self.replies is None else _at(self.replies, index),
        )

    @staticmethod
    def concat(parts: Sequence[Completions]) -> Completions:
        """All completions of `parts` in order. A prompt that several parts have is one prompt; one
        that a part has twice stays two."""
        place: dict[tuple[str, str, int], int] = {}
        prompts: list[Prompt] = []
        prompt_ids: list[tuple[int, ...]] = []
        index_parts: list[Tensor] = []
        for part in parts:
            seen: Counter[str] = Counter()
            moved: list[int] = []
            for prompt, ids in zip(part.prompt_set, part.prompt_ids, strict=True):
                row = place_of(prompt)
                nth = seen[prompt_key(prompt)] if row is None else row
                key = (prompt_key(prompt), "nth" if row is None else "row", nth)
                seen[key[0]] += 1
                if key not in place:
                    place[key] = len(prompts)
                    prompts.append(prompt)
                    prompt_ids.append(ids)
                moved.append(place[key])
            new_P = torch.tensor(moved, device=part.prompt_index_N.device)
            index_parts.append(new_P[part.prompt_index_N])
        log_probs = [part.token_log_prob_NL for part in parts]
        return replace(
            parts[0],
            prompt_set=tuple(prompts),
            prompt_ids=tuple(prompt_ids),
            prompt_index_N=torch.cat(index_parts),
            tokens_NL=cat_padded([part.tokens_NL for part in parts]),
            lengths_N=torch.cat([part.lengths_N for part in parts]),
            ended_N=torch.cat([part.ended_N for part in parts]),
            token_log_prob_NL=(
                None
                if any(each is None for each in log_probs)
                else cat_padded([each for each in log_probs if each is not None])
            ),
            **_environments_parts(parts),
        )

    def check_outcomes(self, max_new_tokens: int) -> None:
        """Raise `OutcomeError` unless every row is an outcome for that T."""
        too_long = self.lengths_N > max_new_tokens
        too_short = ~self.ended_N & (self.lengths_N < max_new_tokens)
        for bad, why in ((too_long, "is longer than"), (too_short, "does not end and is short of")):
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                raise OutcomeError(
                    f"completion {row} ({self.completion_ids[row]}) {why} "
                    f"max_new_tokens={max_new_tokens}, so it is not an outcome",
                    hint="draw with the target's max_new_tokens, or end it with the EOS token",
                )


def _own_runs(ids: list[int], own: list[int]) -> list[list[int]]:
    """The runs of neighbouring ids that are the model's own."""
    pairs = zip(ids, own, strict=False)  # rows are padded, ids are not
    runs = groupby(pairs, itemgetter(1))
    return [[token for token, _ in run] for is_own, run in runs if is_own]


def _at(values: tuple[ReplyT, ...], index: Tensor | slice) -> tuple[ReplyT, ...]:
    rows = torch.arange(len(values))
    picked = rows[index] if isinstance(index, slice) else rows[index.cpu()]
    return tuple(values[row] for row in ints(picked))


def _environments_parts(parts: Sequence[Completions]) -> dict[str, Any]:
    """`own_NL` and `replies` of all parts together; a part that met no environment is all own."""
    if all(part.own_NL is None for part in parts):
        return {}
    return {
        "own_NL": cat_padded([part.own_mask_NL for part in parts]),
        "replies": tuple(
            replies
            for part in parts
            for replies in (((),) * len(part) if part.replies is None else part.replies)
        ),
    }


def check_completions(value: object) -> None:
    """Raise `OutcomeError` for what is no `Completions`."""
    if isinstance(value, Completions):
        return
    has_some = isinstance(getattr(value, "completions", None), Completions)
    raise OutcomeError(
        f"completions is of type {type(value).__name__}",
        hint="give its .completions"
        if has_some
        else "make them by lm.completions(prompts=..., completion_ids=...), or draw them by "
        "lm.sample(...)",
    )

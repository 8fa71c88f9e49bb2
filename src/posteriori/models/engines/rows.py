"""From prompts to an engine's requests, and from its answers to `Completions`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.hooks import context_of
from posteriori.core.occurrence import Prompt
from posteriori.core.prompted import prompt_ids
from posteriori.core.protocols import LanguageModel
from posteriori.core.same_outcomes import check_outcomes_of
from posteriori.errors import EngineError, OutcomeError
from posteriori.models.text.prompt_tokens import check_length

from .backend import Drawn, Request


class Rows(NamedTuple):
    """R completions as tensors; [R, L] padded with zeros, [R]."""

    tokens_RL: Tensor
    log_prob_RL: Tensor
    lengths_R: Tensor
    ended_R: Tensor


def encoded(
    lm: LanguageModel, prompts: Sequence[Prompt], max_new_tokens: int
) -> tuple[tuple[int, ...], ...]:
    """The token ids of each prompt. Raises `PromptError` where one does not fit."""
    found = tuple(prompt_ids(lm, prompt) for prompt in prompts)
    for prompt, ids in zip(prompts, found, strict=True):
        check_length(prompt, ids, max_new_tokens, context_of(lm))
    return found


def requests_for(
    prefixes: Sequence[tuple[int, ...]],
    num_samples: Sequence[int],
    max_new_tokens: Sequence[int],
    generator: torch.Generator | None,
    looked_at: int,
    top: int,
) -> list[Request]:
    """One request per prefix, or two: of the first few completions of each, `looked_at` in all,
    the most probable next tokens are asked for too."""
    seed_2P = torch.randint(2**31 - 2**16, (2 * len(prefixes),), generator=generator).tolist()
    each = -(-looked_at // max(1, len(prefixes)))
    found: list[Request] = []
    for at, (ids, number, most) in enumerate(
        zip(prefixes, num_samples, max_new_tokens, strict=True)
    ):
        first = min(number, each) if at * each < looked_at else 0
        if first:
            found.append(Request(ids, first, most, seed_2P[2 * at], top))
        if number > first:
            found.append(Request(ids, number - first, most, seed_2P[2 * at + 1]))
    return found


def rows_of(
    drawn: Sequence[Drawn], most: Sequence[int], eos_token_ids: Sequence[int], device: torch.device
) -> Rows:
    """The answers as tensors. Raises `EngineError` for what is no outcome."""
    eos = set(eos_token_ids)
    width = max((len(each.token_ids) for each in drawn), default=1)
    tokens_RL = torch.zeros(len(drawn), width, dtype=torch.long)
    log_prob_RL = torch.zeros(len(drawn), width, dtype=torch.float64)
    for row, (each, longest) in enumerate(zip(drawn, most, strict=True)):
        length = len(each.token_ids)
        _check(row, each, longest, eos)
        tokens_RL[row, :length] = torch.tensor(each.token_ids)
        log_prob_RL[row, :length] = torch.tensor(each.log_probs, dtype=torch.float64)
    lengths = [len(each.token_ids) for each in drawn]
    ended = [each.token_ids[-1] in eos for each in drawn]
    return Rows(
        tokens_RL.to(device),
        log_prob_RL.to(device),
        torch.tensor(lengths, dtype=torch.long, device=device),
        torch.tensor(ended, dtype=torch.bool, device=device),
    )


def _check(row: int, drawn: Drawn, longest: int, eos: set[int]) -> None:
    length = len(drawn.token_ids)
    what = None
    if not length or length > longest:
        what = f"has {length} tokens, and between 1 and {longest} were asked for"
    elif len(drawn.log_probs) != length:
        what = f"has {length} tokens and {len(drawn.log_probs)} log-probs"
    elif not all(map(math.isfinite, drawn.log_probs)):
        what = "has a token whose log-prob is no finite number"
    elif drawn.token_ids[-1] not in eos and length < longest:
        what = f"stops after {length} of {longest} tokens, without an end of sequence"
    if what is not None:
        raise EngineError(
            f"completion {row} of the engine {what}",
            where="Engine",
            hint="the engine has to end completions where the model ends them: no stop strings, "
            "no other end-of-sequence tokens, and a context that is long enough",
        )


def completions_of(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    ids: tuple[tuple[int, ...], ...],
    prompt_index: Sequence[int],
    rows: Rows,
    max_new_tokens: int,
) -> Completions:
    """The rows as completions of `prompts`. Raises `EngineError` for tokens that `lm` has not."""
    made = Completions(
        prompt_set=tuple(prompts),
        prompt_ids=ids,
        prompt_index_N=torch.tensor(prompt_index, device=rows.tokens_RL.device),
        tokens_NL=rows.tokens_RL,
        lengths_N=rows.lengths_R,
        ended_N=rows.ended_R,
        max_new_tokens=max_new_tokens,
        decode=lm.decode,
        token_log_prob_NL=rows.log_prob_RL,
    )
    try:
        check_outcomes_of(lm, made, "Engine")
    except OutcomeError as error:
        raise EngineError(
            error.what, where="Engine", hint="is it the same model, with the same tokens?"
        ) from error
    return made

"""Completions that keep a prefix and draw the rest anew: what local moves of MCMC are made of."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from posteriori.core.completions import Completions

from .generate import Rows


def distinct_prefixes(
    completions: Completions, start_N: Tensor
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Every (c, y_1 .. y_start) once, as token ids, and which of them each row goes on from."""
    key_DK, place_N = completions.distinct_prefixes(start_N)
    prefixes = [
        completions.prompt_ids[prompt] + tuple(ids[:start])
        for prompt, start, *ids in key_DK.tolist()
    ]
    return prefixes, place_N.tolist()


def splice(completions: Completions, start_N: Tensor, suffix: Rows) -> Completions:
    """Each completion's first `start_N` tokens and then its row of `suffix`, at full width.

    Log-probs of the prefix are carried over, those of the suffix come with it. They are left out
    where a prefix came without.
    """
    budget = completions.max_new_tokens
    column_T = torch.arange(budget, device=start_N.device)
    old_NT = column_T < start_N[:, None]
    from_suffix_NT = (column_T - start_N[:, None]).clamp(0, suffix.tokens_RT.shape[1] - 1)
    tokens_NT = widened(completions.tokens_NL, budget).where(
        old_NT, suffix.tokens_RT.gather(1, from_suffix_NT)
    )
    lengths_N = start_N + suffix.lengths_R
    beyond_NT = column_T >= lengths_N[:, None]
    return replace(
        completions,
        tokens_NL=tokens_NT.masked_fill(beyond_NT, 0),
        lengths_N=lengths_N,
        ended_N=suffix.ended_R,
        token_log_prob_NL=carried_over(
            completions, start_N, suffix.log_prob_RT.gather(1, from_suffix_NT)
        ),
    )


def carried_over(completions: Completions, start_N: Tensor, fresh_NT: Tensor) -> Tensor | None:
    """Old log-probs before `start_N`, and `fresh_NT` [N, T] from there on to the new end; both are
    zero past a completion's own end. None where there are old tokens without log-probs."""
    old_NL = completions.token_log_prob_NL
    if old_NL is None:
        return None if bool(start_N.any()) else fresh_NT
    column_T = torch.arange(fresh_NT.shape[1], device=start_N.device)
    return widened(old_NL, len(column_T)).where(column_T < start_N[:, None], fresh_NT)


def widened(rows_NL: Tensor, width: int) -> Tensor:
    """Padded with zeros on the right to `width` columns (cut, if it has more)."""
    return torch.nn.functional.pad(rows_NL, (0, width - rows_NL.shape[1]))

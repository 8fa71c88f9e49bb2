"""The sampler: y ~ pi(.|c) with log pi(y|c), in one pass with a key-value cache.

Each prompt is run once and its cache shared among the prompt's draws; prompts of different lengths
go together, padded on the left; rows that have ended leave the batch; and what does not fit in
memory is split. A draw is a function of the model, its prompt and its own row of uniform numbers
(see `inverse_cdf`), so none of this changes which completion is drawn, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from .inverse_cdf import draw_tokens
from .prompts import left_padded
from .warp import Warp

_KEEP_UNTIL_LIVE = 0.8
"""Rows that have ended are dropped once fewer than this share of the batch is live: copying the
cache costs about as much as a fifth of a batch costs in one step."""


@dataclass(frozen=True)
class Forward:
    """A transformers model as the sampler needs it: what it takes, and what it costs."""

    model: Callable
    config: PreTrainedConfig
    takes_positions: bool
    takes_logits_to_keep: bool
    device: torch.device

    def __call__(self, ids: Tensor, mask: Tensor, num_logits: int, cache: DynamicCache | None):
        """Logits [R, num_logits, V] at the last columns of `ids` [R, L].

        `mask` [R, L'] covers the cached columns too; positions count what it lets through, so left
        padding shifts nothing.
        """
        extra: dict[str, Tensor | int] = {}
        if self.takes_positions:
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if self.takes_logits_to_keep:
            extra["logits_to_keep"] = num_logits
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            **extra,
        )
        return out.logits[:, -num_logits:]


@dataclass
class Rows:
    """The outcome of a batch of rows: ids [R, T] padded with 0, lengths, ends, log-probs [R]."""

    tokens_RT: Tensor
    lengths_R: Tensor
    ended_R: Tensor
    log_prob_R: Tensor

    @staticmethod
    def empty(rows: int, max_new_tokens: int, device: torch.device) -> Rows:
        return Rows(
            torch.zeros(rows, max_new_tokens, dtype=torch.long, device=device),
            torch.full((rows,), max_new_tokens, dtype=torch.long, device=device),
            torch.zeros(rows, dtype=torch.bool, device=device),
            torch.zeros(rows, dtype=torch.float64, device=device),
        )


def generate(
    forward: Forward,
    prompt_ids: Sequence[Sequence[int]],
    prompt_of_row: Sequence[int],
    uniform_RT: Tensor,
    *,
    eos_token_ids: Sequence[int],
    warp: Warp,
    rows_at_once: int,
) -> Rows:
    """Draw one completion a row: row i continues prompt `prompt_of_row[i]`.

    `uniform_RT` [R, T] (float64, in [0, 1)) decides every token; T is `max_new_tokens`.
    """
    num_rows, max_new_tokens = uniform_RT.shape
    result = Rows.empty(num_rows, max_new_tokens, forward.device)
    by_length = sorted(range(num_rows), key=lambda row: len(prompt_ids[prompt_of_row[row]]))
    eos = torch.tensor(list(eos_token_ids), device=forward.device)
    for start in range(0, num_rows, rows_at_once):
        chunk = by_length[start : start + rows_at_once]
        used = sorted({prompt_of_row[row] for row in chunk})
        place = {prompt: at for at, prompt in enumerate(used)}
        row_index = torch.tensor(chunk, device=forward.device)
        parent = torch.tensor([place[prompt_of_row[row]] for row in chunk], device=forward.device)
        part = _generate_chunk(
            forward, [prompt_ids[p] for p in used], parent, uniform_RT[row_index], eos, warp
        )
        result.tokens_RT[row_index] = part.tokens_RT
        result.lengths_R[row_index] = part.lengths_R
        result.ended_R[row_index] = part.ended_R
        result.log_prob_R[row_index] = part.log_prob_R
    return result


@torch.inference_mode()
def _generate_chunk(
    forward: Forward,
    prompt_ids: Sequence[Sequence[int]],
    parent_R: Tensor,
    uniform_RT: Tensor,
    eos: Tensor,
    warp: Warp,
) -> Rows:
    num_rows, max_new_tokens = uniform_RT.shape
    result = Rows.empty(num_rows, max_new_tokens, forward.device)
    ids_PL, mask_PL = left_padded(prompt_ids, forward.device)
    cache = DynamicCache(config=forward.config)
    logits_RV = forward(ids_PL, mask_PL, 1, cache)[parent_R, 0]
    _keep_rows(cache, parent_R)
    mask_RL = mask_PL[parent_R]
    row_R = torch.arange(num_rows, device=forward.device)
    live_R = torch.ones_like(row_R, dtype=torch.bool)
    for t in range(max_new_tokens):
        log_prob_RV = warp.log_softmax(logits_RV, row_R.new_tensor(t), eos)
        token_R = draw_tokens(log_prob_RV, uniform_RT[row_R, t])
        step_R = log_prob_RV.gather(1, token_R[:, None])[:, 0].double()
        ends_R = torch.isin(token_R, eos) & live_R
        result.tokens_RT[row_R, t] = token_R.where(live_R, 0)
        result.log_prob_R[row_R] += step_R.where(live_R, 0.0)
        result.lengths_R[row_R[ends_R]] = t + 1
        result.ended_R[row_R[ends_R]] = True
        live_R = live_R & ~ends_R
        num_live = int(live_R.sum())
        if num_live == 0 or t + 1 == max_new_tokens:
            break
        if num_live < _KEEP_UNTIL_LIVE * len(row_R):
            keep = live_R.nonzero()[:, 0]
            _keep_rows(cache, keep)
            row_R, live_R, token_R, mask_RL = (
                row_R[keep],
                live_R[keep],
                token_R[keep],
                mask_RL[keep],
            )
        mask_RL = torch.cat([mask_RL, mask_RL.new_ones(len(row_R), 1)], dim=1)
        logits_RV = forward(token_R[:, None], mask_RL, 1, cache)[:, 0]
    return result


def _keep_rows(cache: DynamicCache, index_R: Tensor) -> None:
    """Row i of the cache becomes what row `index_R[i]` was; rows may repeat or vanish."""
    for layer in cache.layers:
        layer.reorder_cache(cast(torch.LongTensor, index_R))

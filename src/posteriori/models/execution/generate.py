"""The sampler: y ~ pi(.|c) with log pi(y|c), in one pass with a key-value cache.

Each prompt is run once and its cache shared among the prompt's draws; prompts of different lengths
go together, padded on the left; rows that have ended leave the batch; and what does not fit in
memory is split. A draw is a function of the model, its prompt and its own row of uniform numbers
(see `inverse_cdf`), so none of this changes which completion is drawn, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from posteriori.core.journal.journal import apart, once
from posteriori.core.run.progress import advance
from posteriori.models.warp import Warp

from .inverse_cdf import draw_tokens, nothing_to_draw
from .running_model import AnyForward

_KEEP_UNTIL_LIVE = 0.8
"""Rows that have ended are dropped once fewer than this share of the batch is live: copying the
cache costs about as much as a fifth of a batch costs in one step."""


@dataclass
class Rows:
    """The outcome of a batch of rows: ids and log-probs [R, T], padded with 0; lengths, ends."""

    tokens_RT: Tensor
    lengths_R: Tensor
    ended_R: Tensor
    log_prob_RT: Tensor

    @staticmethod
    def empty(rows: int, max_new_tokens: int, device: torch.device) -> Rows:
        return Rows(
            torch.zeros(rows, max_new_tokens, dtype=torch.long, device=device),
            torch.full((rows,), max_new_tokens, dtype=torch.long, device=device),
            torch.zeros(rows, dtype=torch.bool, device=device),
            torch.zeros(rows, max_new_tokens, dtype=torch.float64, device=device),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        return self.tokens_RT, self.lengths_R, self.ended_R, self.log_prob_RT

    @staticmethod
    def joined(parts: Sequence[tuple[Tensor, ...]], device: torch.device) -> Rows:
        """Of `tensors` of several batches, one after another."""
        if len(parts) == 1:
            return Rows(*parts[0])
        return Rows(*(torch.cat(each).to(device) for each in zip(*parts, strict=True)))


def generate(
    forward: AnyForward,
    prompt_ids: Sequence[Sequence[int]],
    prompt_of_row: Sequence[int],
    uniform_RT: Tensor,
    *,
    eos_token_ids: Sequence[int],
    warp: Warp,
    rows_at_once: int,
    offset_R: Tensor | None = None,
    every_prompt: bool = False,
) -> Rows:
    """Draw one completion a row: row i continues prompt `prompt_of_row[i]`; what is finished is
    kept in a journal, if there is one.

    `uniform_RT` [R, T] (float64, in [0, 1)) decides every token; T is `max_new_tokens`. Where the
    "prompts" end with tokens of a completion already, `offset_R` says with how many (fewer than
    T): row i then draws up to T - `offset_R[i]` more, which stand from column 0 on. `every_prompt`
    runs those without a row too: a prompt's numbers then do not depend, even by rounding, on which
    rows are drawn here and which by another process.
    """
    num_rows, max_new_tokens = uniform_RT.shape
    result = Rows.empty(num_rows, max_new_tokens, forward.device)
    by_length = sorted(range(num_rows), key=lambda row: len(prompt_ids[prompt_of_row[row]]))
    eos = torch.tensor(list(eos_token_ids), device=forward.device)
    if offset_R is None:
        offset_R = torch.zeros(num_rows, dtype=torch.long, device=forward.device)

    def chunk_after_chunk() -> None:
        for start in range(0, num_rows, rows_at_once):
            chunk = by_length[start : start + rows_at_once]
            used = sorted({prompt_of_row[row] for row in chunk})
            if every_prompt:
                used = list(range(len(prompt_ids)))
            place = {prompt: at for at, prompt in enumerate(used)}
            row_index = torch.tensor(chunk, device=forward.device)
            parent = torch.tensor(
                [place[prompt_of_row[row]] for row in chunk], device=forward.device
            )
            work = partial(
                _generate_chunk,
                forward,
                [prompt_ids[p] for p in used],
                parent,
                uniform_RT[row_index],
                offset_R[row_index],
                eos,
                warp,
            )
            # A row's numbers say which it is, and of which call.
            whole = len(chunk) == num_rows
            part = work() if whole else _kept(work, uniform_RT[row_index, 0], forward.device)
            result.tokens_RT[row_index] = part.tokens_RT
            result.lengths_R[row_index] = part.lengths_R
            result.ended_R[row_index] = part.ended_R
            result.log_prob_RT[row_index] = part.log_prob_RT

    apart(chunk_after_chunk)
    return result


def _kept(work: Callable[[], Rows], of_what: Tensor, device: torch.device) -> Rows:
    """The rows of a chunk, a finished piece of work (see `core.journal.journal`). How many rows fit
    in memory may be another number when a run is resumed: a piece of other rows is not taken."""
    chunk = of_what.cpu()

    def plain() -> list[Tensor]:
        part = work()
        return [chunk, part.tokens_RT, part.lengths_R, part.ended_R, part.log_prob_RT]

    before, *parts = once(plain)
    return Rows(*(part.to(device) for part in parts)) if torch.equal(before, chunk) else work()


@torch.inference_mode()
def _generate_chunk(
    forward: AnyForward,
    prompt_ids: Sequence[Sequence[int]],
    parent_R: Tensor,
    uniform_RT: Tensor,
    offset_R: Tensor,
    eos: Tensor,
    warp: Warp,
) -> Rows:
    num_rows, max_new_tokens = uniform_RT.shape
    result = Rows.empty(num_rows, max_new_tokens, forward.device)
    rows: Any = forward.prefill(prompt_ids, parent_R, max_new_tokens)
    going = _Going(slice(None), uniform_RT, offset_R, torch.ones_like(parent_R, dtype=torch.bool))
    memory_RV: Tensor | None = None
    for t in range(max_new_tokens):
        position_R = going.offset_R + t
        warped_RV = warp.logits(rows.logits_RV, position_R, eos)
        memory_RV = (
            torch.empty_like(warped_RV) if memory_RV is None else memory_RV[: len(warped_RV)]
        )
        uniform_R = going.uniform_RT[:, t]
        token_R, step_R = draw_tokens(warped_RV, uniform_R, memory_RV, check=False)
        result.tokens_RT[going.row_R, t] = token_R
        result.log_prob_RT[going.row_R, t] = step_R
        going.live_R &= ~torch.isin(token_R, eos) & (position_R + 1 < max_new_tokens)
        good = step_R.isfinite().all()
        # The one time in a token that the host waits for the device.
        num_live = int(torch.where(good, going.live_R.sum(), -1))
        if num_live < 0:
            raise nothing_to_draw()
        if num_live == 0 or t + 1 == max_new_tokens:
            advance(num_rows * (max_new_tokens - t) / max_new_tokens)
            break
        advance(num_rows / max_new_tokens)
        if num_live < _KEEP_UNTIL_LIVE * len(token_R):
            keep = going.live_R.nonzero()[:, 0]
            rows.keep(keep)
            going, token_R = going.only(keep), token_R[keep]
        forward.extend(rows, token_R[:, None])
    return _cut(result, max_new_tokens - offset_R, eos)


@dataclass
class _Going:
    """The rows that are still in the batch: where in the result each stands, its uniform numbers
    [R, T] and offset, and whether it goes on."""

    row_R: Tensor | slice
    uniform_RT: Tensor
    offset_R: Tensor
    live_R: Tensor

    def only(self, keep_r: Tensor) -> _Going:
        row_R = keep_r if isinstance(self.row_R, slice) else self.row_R[keep_r]
        return _Going(row_R, self.uniform_RT[keep_r], self.offset_R[keep_r], self.live_R[keep_r])


def _cut(drawn: Rows, budget_R: Tensor, eos: Tensor) -> Rows:
    """Every row ends with its first end of sequence among its `budget_R` tokens, or with these."""
    column_T = torch.arange(drawn.tokens_RT.shape[1], device=budget_R.device)
    ends_RT = torch.isin(drawn.tokens_RT, eos) & (column_T < budget_R[:, None])
    ended_R = ends_RT.any(-1)
    lengths_R = torch.where(ended_R, ends_RT.int().argmax(-1) + 1, budget_R)
    after_RT = column_T >= lengths_R[:, None]
    return Rows(
        drawn.tokens_RT.masked_fill(after_RT, 0),
        lengths_R,
        ended_R,
        drawn.log_prob_RT.masked_fill(after_RT, 0.0),
    )

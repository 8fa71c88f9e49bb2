"""Scoring: log pi(y|c) of given completions, with logits for completion tokens only.

Completions are scored in micro-batches of similar length. Each distinct prompt of a micro-batch is
run once, for the logits after its last token; then the completions, padded on the right, continue
its cache. The last token of a completion is predicted and never fed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Completions
from .forward import Forward
from .warp import Warp

_SPREAD = 1.25
"""A micro-batch's longest row may be a quarter longer than its shortest: the rest is padding."""

_WORTH_SPLITTING = 1024
"""Tokens below which a micro-batch is too small to be worth closing for the sake of padding."""


def length_sorted_batches(completions: Completions, cells: int) -> list[Tensor]:
    """Positions in groups of similar total length, each of at most `cells` tokens (or one row).

    The groups cover every completion once and depend on lengths alone, so they are the same for
    every language model with the same tokenizer.
    """
    prompt_lengths = torch.tensor([len(ids) for ids in completions.prompt_ids])
    total = prompt_lengths[completions.prompt_index_N.cpu()] + completions.lengths_N.cpu()
    ordered, order = torch.sort(total, stable=True)
    groups: list[list[int]] = []
    shortest = 0
    for position, width in zip(order.tolist(), ordered.tolist(), strict=True):
        size = len(groups[-1]) if groups else 0
        uneven = width > _SPREAD * shortest and width * size >= _WORTH_SPLITTING
        if size == 0 or width * (size + 1) > cells or uneven:
            groups.append([])
            shortest = width
        groups[-1].append(position)
    return [torch.tensor(group) for group in groups]


def token_log_prob(forward: Forward, completions: Completions, eos: Tensor, warp: Warp) -> Tensor:
    """log pi(y_t | c, y_<t) [N, L], at least float32, zero beyond each completion's length."""
    device = forward.device
    width = int(completions.lengths_N.max())
    tokens_NT = completions.tokens_NL[:, :width].to(device)
    used, parent_N = torch.unique(completions.prompt_index_N.to(device), return_inverse=True)
    rows = forward.prefill([completions.prompt_ids[i] for i in used.tolist()], parent_N)
    chosen_NT = _chosen(rows.logits_RV[:, None], tokens_NT[:, :1], 0, eos, warp)
    if width > 1:
        # Columns past a completion's end need no mask: causal attention never looks ahead.
        logits_NTV = forward.extend(rows, tokens_NT[:, :-1])
        later_NT = _chosen(logits_NTV, tokens_NT[:, 1:], 1, eos, warp)
        chosen_NT = torch.cat([chosen_NT, later_NT], dim=1)
    return chosen_NT.masked_fill(~completions.mask_NL[:, :width].to(device), 0.0)


def _chosen(logits_NTV: Tensor, tokens_NT: Tensor, first: int, eos: Tensor, warp: Warp) -> Tensor:
    """log-softmax at the chosen tokens, [N, T]; the first column is the completion's token `first`.

    Cross-entropy gives it with one copy of the logits, where log-softmax and gather keep two.
    """
    position_T = torch.arange(first, first + tokens_NT.shape[1], device=tokens_NT.device)
    warped_NTV = warp.logits(logits_NTV, position_T.expand_as(tokens_NT), eos)
    loss = torch.nn.functional.cross_entropy(
        warped_NTV.flatten(0, 1), tokens_NT.flatten(), reduction="none"
    )
    return -loss.view_as(tokens_NT)

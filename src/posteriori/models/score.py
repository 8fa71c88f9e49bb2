"""Scoring: log pi(y|c) of given completions, with logits for completion tokens only.

Completions are scored in micro-batches of similar length. Prompts are padded on the left and
completions on the right, so that in one micro-batch all completions start at the same column and
`logits_to_keep` leaves out the prompts. The last token of a completion is predicted and never fed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Completions
from .generate import Forward
from .prompts import left_padded
from .warp import Warp


def length_sorted_batches(completions: Completions, cells: int) -> list[Tensor]:
    """Positions in groups of similar total length, each of at most `cells` tokens (or one row).

    The groups cover every completion once and depend on lengths alone, so they are the same for
    every language model with the same tokenizer.
    """
    prompt_lengths = torch.tensor([len(ids) for ids in completions.prompt_ids])
    total = prompt_lengths[completions.prompt_index_N.cpu()] + completions.lengths_N.cpu()
    order = torch.argsort(total, stable=True)
    groups: list[list[int]] = [[]]
    for position in order.tolist():
        width = int(total[position])
        if groups[-1] and width * (len(groups[-1]) + 1) > cells:
            groups.append([])
        groups[-1].append(position)
    return [torch.tensor(group) for group in groups if group]


def token_log_prob(forward: Forward, completions: Completions, eos: Tensor, warp: Warp) -> Tensor:
    """log pi(y_t | c, y_<t) [N, L], at least float32, zero beyond each completion's length."""
    device = forward.device
    width = int(completions.lengths_N.max())
    tokens_NT = completions.tokens_NL[:, :width].to(device)
    index_N = completions.prompt_index_N.tolist()
    prompt_NP, prompt_mask_NP = left_padded([completions.prompt_ids[i] for i in index_N], device)
    ids_NL = torch.cat([prompt_NP, tokens_NT[:, :-1]], dim=1)
    # Columns past a completion's end need no mask: causal attention never looks ahead.
    mask_NL = torch.cat([prompt_mask_NP, torch.ones_like(tokens_NT[:, :-1])], dim=1)
    logits_NTV = forward(ids_NL, mask_NL, width, None)
    mask_NT = completions.mask_NL[:, :width].to(device)
    if warp == Warp():
        chosen_NT = _chosen_log_softmax(logits_NTV, tokens_NT)
    else:
        position_T = torch.arange(width, device=device).expand(len(completions), -1)
        log_prob_NTV = warp.log_softmax(logits_NTV, position_T, eos)
        chosen_NT = log_prob_NTV.gather(-1, tokens_NT[..., None])[..., 0]
    return chosen_NT.masked_fill(~mask_NT, 0.0)


def _chosen_log_softmax(logits_NTV: Tensor, tokens_NT: Tensor) -> Tensor:
    """log-softmax at the chosen tokens; cross-entropy keeps one copy of the logits, not two."""
    logits = logits_NTV if logits_NTV.dtype == torch.float64 else logits_NTV.float()
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens_NT.flatten(), reduction="none"
    )
    return -loss.view_as(tokens_NT)

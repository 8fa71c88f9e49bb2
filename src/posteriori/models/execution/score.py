"""Scoring: log pi(y|c) of given completions, with logits for completion tokens only.

Completions are scored in micro-batches of similar length. Each distinct prompt of a micro-batch is
run once, for the logits after its last token; then the completions, padded on the right, continue
its cache. The last token of a completion is predicted and never fed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posteriori.core.completions import Completions
from posteriori.models.cpu.head_log_prob import head_log_prob
from posteriori.models.cpu.weight_cache import WeightCache
from posteriori.models.warp import Warp

from .running_model import AnyForward


def token_log_prob(
    forward: AnyForward, completions: Completions, eos: Tensor, warp: Warp, cache: WeightCache
) -> Tensor:
    """log pi(y_t | c, y_<t) [N, L], at least float32, zero beyond each completion's length."""
    device = forward.device
    width = int(completions.lengths_N.max())
    tokens_NT = completions.tokens_NL[:, :width].to(device)
    prompt_ids, parent_N = completions.distinct_prompts()
    outputs = forward.continued(prompt_ids, parent_N.to(device), tokens_NT[:, :-1])
    if forward.hidden:
        assert isinstance(forward.head, nn.Linear)
        hidden_NTD = torch.cat(outputs, dim=1)
        chosen_NT = head_log_prob(hidden_NTD, forward.head.weight, tokens_NT, cache)
    else:
        parts, first = [], 0
        for logits_NTV in outputs:
            columns = tokens_NT[:, first : first + logits_NTV.shape[1]]
            parts.append(_chosen(logits_NTV, columns, first, eos, warp))
            first += logits_NTV.shape[1]
        chosen_NT = torch.cat(parts, dim=1)
    return chosen_NT.masked_fill(~completions.own_mask_NL[:, :width].to(device), 0.0)


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

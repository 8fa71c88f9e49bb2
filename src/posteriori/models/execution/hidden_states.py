"""The hidden states of each prefix that enter a transformers model's output head."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.errors import ModelError

from .running_model import AnyForward


@torch.no_grad()
def prefix_features(forward: AnyForward, completions: Completions) -> Tensor:
    """h(c, y_<t) of every token, float32 [N, L, D], zero beyond a completion's end; no gradient.

    As in scoring, each distinct prompt is run once and the last token of a completion is never fed.
    Raises `ModelError` for a model without an output head.
    """
    if forward.head is None:
        raise ModelError(
            "the model names no output head (get_output_embeddings), so its hidden states cannot "
            "be read",
            hint="use an objective without a value head, such as grpo or rloo",
        )
    width = int(completions.lengths_N.max())
    tokens_NT = completions.tokens_NL[:, :width].to(forward.device)
    prompt_ids, parent_N = completions.distinct_prompts()
    states_NTD = forward.states(prompt_ids, parent_N.to(forward.device), tokens_NT[:, :-1])
    mask_NT1 = completions.mask_NL[:, :width, None].to(forward.device)
    return states_NTD.float().masked_fill(~mask_NT1, 0.0)

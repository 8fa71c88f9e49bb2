"""What a transformers model knows of each prefix: the hidden states that enter its output head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..types import Completions
from .forward import Forward


@torch.no_grad()
def prefix_features(forward: Forward, head: nn.Module | None, completions: Completions) -> Tensor:
    """h(c, y_<t) of every token, float32 [N, L, D], zero beyond a completion's end; no gradient.

    They are taken where they enter `head`, whatever the model does to its logits afterwards. As in
    scoring, each distinct prompt is run once and the last token of a completion is never fed.
    Raises `ModelError` for a model without an output head.
    """
    if head is None:
        raise ModelError(
            "the model names no output head (get_output_embeddings), so its hidden states cannot "
            "be read",
            hint="use an objective without a value head, such as grpo or rloo",
        )
    width = int(completions.lengths_N.max())
    tokens_NT = completions.tokens_NL[:, :width].to(forward.device)
    used, parent_N = torch.unique(
        completions.prompt_index_N.to(forward.device), return_inverse=True
    )
    with _inputs_of(head) as seen:
        rows = forward.prefill([completions.prompt_ids[i] for i in used.tolist()], parent_N)
        features = [seen[-1][:, -1:][parent_N]]
        if width > 1:
            forward.extend(rows, tokens_NT[:, :-1])
            features.append(seen[-1][:, -(width - 1) :])
    mask_NT1 = completions.mask_NL[:, :width, None].to(forward.device)
    return torch.cat(features, dim=1).float().masked_fill(~mask_NT1, 0.0)


@contextlib.contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()

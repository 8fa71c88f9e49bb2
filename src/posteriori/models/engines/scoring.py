"""An engine's scores as a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.errors import EngineError

from .backend import Backend


def scored(backend: Backend, completions: Completions) -> Tensor:
    """log q of every token, float64 [N, L], zero beyond a completion's end."""
    prompts = [completions.prompt_ids[at] for at in completions.prompt_index_N.tolist()]
    found = backend.score(prompts, completions.completion_ids)
    scored_NL = torch.zeros(completions.tokens_NL.shape, dtype=torch.float64)
    lengths = [len(each) for each in found]
    if lengths != completions.lengths_N.tolist():
        raise EngineError(
            "the engine's scores are not one number per token",
            where="Engine",
            hint="is it the same model, with the same tokens?",
        )
    for row, log_probs in enumerate(found):
        scored_NL[row, : len(log_probs)] = torch.tensor(log_probs, dtype=torch.float64)
    if bool(scored_NL.isnan().any()):
        raise EngineError(
            "the engine gives a token a log-prob that is no number",
            where="Engine",
            hint="its arithmetic overflows: use a finer dtype",
        )
    return scored_NL.to(completions.tokens_NL.device)


def spread(number: int, most: int) -> Tensor:
    """At most so many places, evenly over `number`."""
    size = min(number, most)
    return torch.arange(size) * number // max(1, size)

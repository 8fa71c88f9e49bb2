"""Which weights a language model has now, by a number or two per tensor."""

from __future__ import annotations

import torch

from posteriori.core.protocols import LanguageModel, TrainableLM

Signature = tuple[tuple[str, float, float], ...]


def signature_of(lm: LanguageModel) -> Signature:
    """Two sums per tensor of the model: those of weights that have changed differ.

    Reading every weight once is quicker than a pass over a single token. A model without tensors of
    its own is known by its identity.
    """
    if not isinstance(lm, TrainableLM):
        return (("id", float(id(lm)), 0.0),)
    found: list[tuple[str, float, float]] = []
    with torch.no_grad():
        for name, tensor in lm.trained_state().items():
            flat = tensor.detach().flatten()
            total = float(torch.sum(flat, dtype=torch.float64))
            found.append((name, total, float(torch.linalg.vector_norm(flat, dtype=torch.float64))))
    # Two models may be equal; what an adapter stands on is known by the object.
    return (("adapter", float(id(_base_of(lm))), 0.0), *found)


def _base_of(lm: TrainableLM) -> object:
    return getattr(lm, "model", lm)

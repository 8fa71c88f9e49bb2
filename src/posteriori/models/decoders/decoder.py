"""What a decoder is, whatever its architecture: what comes before attention, and what after it.

transformers' models serve every use there is: masks of many kinds, outputs of many kinds, hooks
around every module. A token's pass through a small model is then mostly bookkeeping. Here a known
architecture is its arithmetic alone, done by the model's own layers with the model's own weights.

Tokens come as one list, [M, D], because nothing but attention needs to know which of them belong
together; so prompts and completions of any lengths go through the layers as one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from posteriori.models.passes.recompute import Again, recomputed

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries [M, H, E], keys [M, G, E], values [M, G, E]) -> what they attend to [M, H E]."""


class Layer(Protocol):
    """A layer of a decoder but for its attention. `place` is what it needs of the positions."""

    def before(self, x_MD: Tensor, place: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [M, H, E], keys and values [M, G, E], where G divides H."""
        ...

    def after(self, x_MD: Tensor, attended_MA: Tensor) -> Tensor:
        """The residual stream behind the layer."""
        ...


@dataclass(frozen=True)
class Decoder:
    """h = norm(layer_n(.. layer_1(embed(ids)))), and the head that makes logits of h."""

    embed: Callable[[Tensor, Tensor], tuple[Tensor, Any]]
    """(ids [M], positions [M]) -> the residual stream [M, D], and a layer's `place`."""
    layers: Sequence[Layer]
    norm: Callable[[Tensor], Tensor]
    head: nn.Module
    dtype: torch.dtype
    """That of the residual stream, and of attention."""
    again: Again | None = None
    """Layers keep their inputs alone, and are run again within this on the way back."""

    def hidden(self, ids_M: Tensor, position_M: Tensor, attend: Attend) -> Tensor:
        """What enters the head, [M, D]."""
        x_MD, place = self.embed(ids_M, position_M)
        for at, layer in enumerate(self.layers):
            if self.again is None:
                x_MD = _through(x_MD, at, layer, place, attend)
            else:
                x_MD = recomputed(_through, x_MD, at, layer, place, attend, again=self.again)
        return self.norm(x_MD)


def _through(x_MD: Tensor, at: int, layer: Layer, place: Any, attend: Attend) -> Tensor:
    return layer.after(x_MD, attend(at, *layer.before(x_MD, place)))

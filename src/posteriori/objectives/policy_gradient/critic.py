"""A value head: from each prefix, what an outcome that begins so will be worth."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from posteriori.core.seeds import generator


class Critic(nn.Module):
    """U(c, y_<t) = centre + unit * MLP(LayerNorm(h) / sqrt(D)), [N, L], from features h [N, L, D].

    The first layer's weights start with variance 1 on inputs of length 1, so that one learning rate
    suits every D: Adam moves each weight alike, and a layer's output by the sum of its inputs.

    `centre` and `unit` (the mean and the standard deviation of the first step's returns, set once
    by `set_unit`) spare the weights from having to grow to whatever units the evidence has. The
    last layer starts at zero, so before anything is learned U is the same for every prefix. Weights
    are drawn from the seed and not from torch's global stream.
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, width: int, hidden: int, seed: int, like: Tensor) -> None:
        super().__init__()
        first, last = _unset(width, hidden, like), _unset(hidden, 1, like)
        with torch.no_grad():
            first.weight.copy_(torch.randn(hidden, width, generator=generator(seed, "critic")))
            for parameter in (first.bias, last.weight, last.bias):
                parameter.zero_()
        self.layers = nn.Sequential(first, nn.GELU(), last)
        self.register_buffer("centre", torch.full((), torch.nan, dtype=torch.float64))
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.to(like.device)

    def forward(self, features_NLD: Tensor) -> Tensor:
        width = features_NLD.shape[-1]
        inputs_NLD = nn.functional.layer_norm(features_NLD, (width,)) / math.sqrt(width)
        output_NL = cast(Tensor, self.layers(inputs_NLD))[..., 0].double()
        return self.centre.nan_to_num(0.0) + self.unit * output_NL

    def set_unit(self, returns_N: Tensor) -> None:
        """Fix centre and unit, the first time it is called; equal returns leave the unit at 1."""
        if bool(self.centre.isnan()):
            self.centre.copy_(returns_N.mean())
            spread = returns_N.std(unbiased=False)
            if float(spread) > 0:
                self.unit.copy_(spread)


def _unset(width: int, out: int, like: Tensor) -> nn.Linear:
    """A layer without values yet: the usual ones would come from torch's global stream."""
    return nn.Linear(width, out, device="meta", dtype=like.dtype).to_empty(device=like.device)

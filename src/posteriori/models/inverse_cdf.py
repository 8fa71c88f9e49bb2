"""Drawing from rows of categorical distributions by inverting their cumulative sums.

One uniform number a draw: the draw is a function of (distribution, number), so it does not depend
on which other rows share the batch, in which order they come, or how the batch is split.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 512


def draw_tokens(log_prob_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """Token ids [R] with P(id = v) = exp(log_prob[v]); `uniform_R` is float64 in [0, 1).

    A wide vocabulary is searched in two levels, blocks and then tokens of one block, because a
    running sum over all of it in float64 costs more than the rest of the draw. A token of
    probability zero is never drawn.
    """
    prob_RV = log_prob_RV.exp()
    rows, vocab = prob_RV.shape
    if vocab <= 2 * _BLOCK:
        return _search(prob_RV, uniform_R)[0]
    pad = -vocab % _BLOCK
    if pad:
        prob_RV = torch.nn.functional.pad(prob_RV, (0, pad))
    prob_RBb = prob_RV.view(rows, -1, _BLOCK)
    block_R, rest_R = _search(prob_RBb.sum(-1), uniform_R)
    inside_Rb = prob_RBb[torch.arange(rows, device=prob_RV.device), block_R]
    return block_R * _BLOCK + _search(inside_Rb, rest_R)[0]


def _search(mass_RK: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """The cell that holds each uniform number, and where in it the number lies, in [0, 1)."""
    cumulative_RK = mass_RK.double().cumsum(-1)
    total_R1 = cumulative_RK[:, -1:]
    below_total_R1 = torch.nextafter(total_R1, torch.zeros_like(total_R1))
    point_R1 = torch.minimum(uniform_R[:, None] * total_R1, below_total_R1)
    cell_R1 = torch.searchsorted(cumulative_RK, point_R1, right=True)
    high_R1 = cumulative_RK.gather(1, cell_R1)
    mass_R1 = mass_RK.gather(1, cell_R1).double()
    rest_R1 = ((point_R1 - (high_R1 - mass_R1)) / mass_R1).clamp(0.0, 1.0)
    return cell_R1[:, 0], rest_R1[:, 0]

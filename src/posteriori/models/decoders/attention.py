"""Attention of queries to keys with a bias, in float32 at least: softmax(q k' / sqrt(E) + bias) v.

torch's CPU kernel is several times slower in bfloat16 than in float32 over short sequences; so
queries, keys and values leave an autocast here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def bias_of(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a query may look, -inf where not."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
        ~allowed, -math.inf
    )


_SHORT = 2048
"""Queries times keys of a row, up to which plain products are faster than torch's fused attention,
which takes the longer to start the more rows there are."""


def attend(q_RTHE: Tensor, k_RGLE: Tensor, v_RGLE: Tensor, bias_R1TL: Tensor) -> Tensor:
    """[R, T, H E], where each of G keys and values serves H/G queries."""
    rows, tokens = q_RTHE.shape[:2]
    with torch.autocast(q_RTHE.device.type, enabled=False):
        if tokens == 1 or tokens * k_RGLE.shape[2] <= _SHORT:
            out_RTHE = _by_products(q_RTHE, k_RGLE, v_RGLE, bias_R1TL)
        else:
            out_RTHE = scaled_dot_product_attention(
                q_RTHE.transpose(1, 2),
                k_RGLE,
                v_RGLE,
                attn_mask=bias_R1TL,
                enable_gqa=q_RTHE.shape[2] != k_RGLE.shape[1],
            ).transpose(1, 2)
        return out_RTHE.reshape(rows, tokens, -1)


def _by_products(q_RTHE: Tensor, k_RGLE: Tensor, v_RGLE: Tensor, bias_R1TL: Tensor) -> Tensor:
    """One product for each key's head: the queries that share it are the rows of a matrix, heads
    first and then tokens."""
    rows, width = len(q_RTHE), q_RTHE.shape[-1]
    kinds, length = k_RGLE.shape[1:3]
    q_RGhTE = q_RTHE.unflatten(2, (kinds, -1)).permute(0, 2, 3, 1, 4)
    shape = q_RGhTE.shape[:-1]
    bias_RGhTL = bias_R1TL[:, None].expand(*shape, length)
    score_BtL = torch.baddbmm(
        bias_RGhTL.reshape(rows * kinds, -1, length),
        q_RGhTE.reshape(rows * kinds, -1, width),
        k_RGLE.reshape(-1, length, width).transpose(1, 2),
        alpha=1 / math.sqrt(width),
    )
    out_BtE = torch.bmm(score_BtL.softmax(-1), v_RGLE.reshape(-1, length, width))
    return out_BtE.view(*shape, width).permute(0, 3, 1, 2, 4).flatten(2, 3)

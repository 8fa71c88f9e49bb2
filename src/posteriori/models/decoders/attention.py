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


def attend(q_RTHE: Tensor, k_RGLE: Tensor, v_RGLE: Tensor, bias_R1TL: Tensor) -> Tensor:
    """[R, T, H E], where each of G keys and values serves H/G queries."""
    rows, tokens = q_RTHE.shape[:2]
    with torch.autocast(q_RTHE.device.type, enabled=False):
        if tokens == 1 and not torch.is_grad_enabled():
            out = _one_token(q_RTHE, k_RGLE, v_RGLE, bias_R1TL)
        else:
            out = scaled_dot_product_attention(
                q_RTHE.transpose(1, 2),
                k_RGLE,
                v_RGLE,
                attn_mask=bias_R1TL,
                enable_gqa=q_RTHE.shape[2] != k_RGLE.shape[1],
            ).transpose(1, 2)
        return out.reshape(rows, tokens, -1)


def _one_token(q_R1HE: Tensor, k_RGLE: Tensor, v_RGLE: Tensor, bias_R11L: Tensor) -> Tensor:
    """By plain products, which are faster where there is one query a row: the heads that share a
    key are the rows of a matrix."""
    rows, kinds, length, width = k_RGLE.shape
    q_BhE = q_R1HE.reshape(rows * kinds, -1, width)
    k_BLE, v_BLE = k_RGLE.reshape(-1, length, width), v_RGLE.reshape(-1, length, width)
    bias_BhL = bias_R11L.expand(rows, kinds, 1, length).reshape(-1, 1, length)
    score_BhL = torch.baddbmm(bias_BhL, q_BhE, k_BLE.transpose(1, 2), alpha=1 / math.sqrt(width))
    return torch.bmm(score_BhL.softmax(-1), v_BLE).view(rows, 1, -1, width)

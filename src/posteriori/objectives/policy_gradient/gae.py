"""Generalised advantage estimation for a critic that predicts the return of the whole outcome."""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(
    predicted_NL: Tensor, return_N: Tensor, lengths_N: Tensor, gae_lambda: float
) -> Tensor:
    """A_t = sum_k lambda^k delta_{t+k},  delta_t = U_{t+1} - U_t,  U past the end = the return;
    [N, L], zero beyond a completion's end.

    These are the usual delta_t = r_t + V_{t+1} - V_t with V_t = U_t - (r_1 + .. + r_{t-1}): the
    value to go is what the whole outcome will bring, less what is already in. lambda = 1 gives
    A_t = return - U_t, where U is a baseline and nothing more; lambda < 1 trusts U, and is biased
    as far as U is wrong. (Schulman et al. 2015, arXiv 1506.02438, equation 16; gamma is 1.)
    """
    position_L = torch.arange(predicted_NL.shape[1], device=predicted_NL.device)
    is_last_NL = position_L == lengths_N[:, None] - 1
    next_NL = predicted_NL.roll(-1, dims=1).where(~is_last_NL, return_N[:, None])
    delta_NL = (next_NL - predicted_NL) * (position_L < lengths_N[:, None])
    running_N = torch.zeros_like(return_N)
    columns: list[Tensor] = []
    for delta_N in reversed(delta_NL.unbind(1)):
        running_N = delta_N + gae_lambda * running_N
        columns.append(running_N)
    return torch.stack(columns[::-1], dim=1)

"""Diversity of a set of draws, with jackknife errors: distinct n-grams and unique completions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..types import Completions, Estimate


def unique_fraction(completions: Completions) -> Estimate:
    """Distinct completions over completions. Depends on how many draws are compared."""
    tokens_NL = completions.tokens_NL.masked_fill(~completions.mask_NL, -1)
    _, row_N, count_K = torch.unique(tokens_NL, dim=0, return_inverse=True, return_counts=True)
    lost_N = (count_K[row_N] == 1).double()
    return _jackknife(float(len(count_K)), float(len(completions)), lost_N, torch.ones_like(lost_N))


def distinct_n(completions: Completions, n: int = 2) -> Estimate:
    """Distinct n-grams of tokens over all n-grams (Li et al. 2016, arXiv 1510.03055).

    NaN where no completion has n tokens.
    """
    tokens_NL, mask_NL = completions.tokens_NL, completions.mask_NL
    width = tokens_NL.shape[1]
    if width < n or not bool(mask_NL[:, n - 1 :].any()):
        return Estimate(math.nan, math.nan, "heuristic", len(completions))
    gram_NGn = tokens_NL.unfold(1, n, 1)
    inside_NG = mask_NL[:, n - 1 :]
    owner_NG = torch.arange(len(completions), device=tokens_NL.device)[:, None].expand_as(inside_NG)
    owner_M = owner_NG[inside_NG]
    _, gram_M = torch.unique(gram_NGn[inside_NG], dim=0, return_inverse=True)
    num_grams = int(gram_M.max()) + 1
    # A completion that is left out takes with it the n-grams that no other completion has.
    pair_K = torch.unique(gram_M * len(completions) + owner_M)
    gram_K, owner_K = pair_K // len(completions), pair_K % len(completions)
    owners_G = torch.bincount(gram_K, minlength=num_grams)
    only_K = (owners_G[gram_K] == 1).double()
    zeros_N = torch.zeros(len(completions), dtype=torch.float64, device=tokens_NL.device)
    lost_N = zeros_N.index_add(0, owner_K, only_K)
    size_N = inside_NG.sum(1).double()
    return _jackknife(float(num_grams), float(size_N.sum()), lost_N, size_N)


def _jackknife(distinct: float, total: float, lost_N: Tensor, size_N: Tensor) -> Estimate:
    """distinct / total, and its error from leaving out one draw at a time."""
    num = len(lost_N)
    without_N = (distinct - lost_N) / (total - size_N).clamp(min=1.0)
    variance = (num - 1) / num * float((without_N - without_N.mean()).square().sum())
    return Estimate(distinct / total, math.sqrt(variance), "heuristic", num)

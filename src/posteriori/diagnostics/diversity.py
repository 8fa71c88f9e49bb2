"""Diversity of a set of draws: distinct n-grams, unique completions, and self-BLEU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.numerics import variance_of_mean
from posteriori.core.reliability import NORMAL, RULE_OF_THREE
from posteriori.core.types import Estimate


def unique_fraction(completions: Completions) -> Estimate:
    """Distinct completions over completions. Depends on how many draws are compared."""
    tokens_NL = completions.tokens_NL.masked_fill(~completions.mask_NL, -1)
    row_N, count_K = _alike(tokens_NL)
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
    gram_M, count_G = _alike(gram_NGn[inside_NG])
    num_grams = len(count_G)
    # A completion that is left out takes with it the n-grams that no other completion has.
    pair_K = torch.unique(gram_M * len(completions) + owner_M)
    gram_K, owner_K = pair_K // len(completions), pair_K % len(completions)
    owners_G = torch.bincount(gram_K, minlength=num_grams)
    only_K = (owners_G[gram_K] == 1).double()
    zeros_N = torch.zeros(len(completions), dtype=torch.float64, device=tokens_NL.device)
    lost_N = zeros_N.index_add(0, owner_K, only_K)
    size_N = inside_NG.sum(1).double()
    return _jackknife(float(num_grams), float(size_N.sum()), lost_N, size_N)


TOGETHER, GROUPS = 6, 6
"""Draws that are compared with each other, and how many times others are taken."""


def self_bleu(completions: Completions) -> Estimate:
    """Mean BLEU of each of 6 draws against the 5 others, between 0 and 1: how much they repeat each
    other (Zhu et al. 2018, "Texygen", arXiv 1802.01886).

    As sacrebleu's, over up to 4 neighbouring tokens (token ids are the words, end of sequence
    included, so it does not depend on how a language is split), as many as a short completion has.
    It grows with the number of draws compared, which is why that is fixed. The first 36 draws make
    6 groups; the standard error is that of their mean, and NaN where there is one group alone.
    """
    (found,) = self_bleus(completions, [torch.arange(len(completions))])
    return found


def self_bleus(completions: Completions, rows: Sequence[Tensor]) -> list[Estimate]:
    """`self_bleu` of the draws at each of `rows`: those of a prompt, for all prompts at once."""
    sizes: dict[int, list[int]] = {}
    for at, each in enumerate(rows):
        sizes.setdefault(min(each.shape[0], TOGETHER * GROUPS), []).append(at)
    found: dict[int, Estimate] = {}
    for size, places in sizes.items():
        together = min(TOGETHER, size)
        groups = min(GROUPS, size // together)
        num = together * groups
        at_once = max(1, _AT_ONCE // (num * completions.tokens_NL.shape[1]))
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            shown = completions.select(torch.cat([rows[at][:num] for at in some]))
            scores = torch.tensor(_against_others(shown, together), dtype=torch.float64)
            score_PG = scores.reshape(len(some), groups, together).mean(2) / 100
            for at, score_G in zip(some, score_PG, strict=True):
                error = math.sqrt(float(variance_of_mean(score_G))) if groups > 1 else math.nan
                found[at] = Estimate(float(score_G.mean()), error, "heuristic", num)
    return [found[at] for at in range(len(rows))]


_AT_ONCE = 2**20
"""Tokens whose n-grams are counted together."""

_LONGEST = 4


def _against_others(completions: Completions, together: int) -> list[float]:
    """BLEU of each completion against the others of its group, from 0 to 100; groups are so many
    neighbours.

    An n-gram of a text counts as often as the other that has it most, which the two largest counts
    in a group say for all its texts at once.
    """
    from sacrebleu.metrics.bleu import BLEU

    token_NL = completions.tokens_NL.cpu().numpy()
    length_N = completions.lengths_N.cpu().numpy()
    correct_nN = [_correct(token_NL, length_N, n, together) for n in range(1, _LONGEST + 1)]
    total_nN = [np.maximum(length_N - n, -1) + 1 for n in range(1, _LONGEST + 1)]
    closest_N = _closest(length_N.reshape(-1, together)).reshape(-1)
    counts = np.stack([*correct_nN, *total_nN, length_N, closest_N], axis=1)
    known: dict[tuple[int, ...], float] = {}
    scores = []
    for row in map(tuple, counts.tolist()):
        if row not in known:
            made = BLEU.compute_bleu(
                list(row[:_LONGEST]),
                list(row[_LONGEST : 2 * _LONGEST]),
                *row[2 * _LONGEST :],
                smooth_method="exp",
                effective_order=True,
                max_ngram_order=_LONGEST,
            )
            known[row] = made.score
        scores.append(known[row])
    return scores


def _correct(
    token_NL: NDArray[Any], length_N: NDArray[Any], n: int, together: int
) -> NDArray[np.int64]:
    """Of each completion, how many of its n-grams others of its group have as well, [N]."""
    num, width = token_NL.shape
    if width < n:
        return np.zeros(num, dtype=np.int64)
    gram_NGn = sliding_window_view(token_NL, n, axis=1)
    inside_NG = np.arange(n - 1, width) < length_N[:, None]
    owner_M = np.broadcast_to(np.arange(num)[:, None], inside_NG.shape)[inside_NG]
    if not len(owner_M):
        return np.zeros(num, dtype=np.int64)
    group_M1 = (owner_M // together)[:, None]
    which_M, num_kinds = _numbered(np.concatenate([group_M1, gram_NGn[inside_NG]], axis=1))
    place_M = which_M * together + owner_M % together
    count_KT = np.bincount(place_M, minlength=num_kinds * together).reshape(-1, together)
    first_K1 = count_KT.max(1, keepdims=True)
    # Of two that have it as often, each is what the other is compared with.
    second_K1 = np.sort(count_KT, axis=1)[:, -2:-1] if together > 1 else np.zeros_like(first_K1)
    others_KT = np.where(count_KT == first_K1, second_K1, first_K1)
    group_K = np.zeros(num_kinds, dtype=np.int64)
    group_K[which_M] = group_M1[:, 0]
    text_KT = group_K[:, None] * together + np.arange(together)
    shared_KT = np.minimum(count_KT, others_KT)
    found_N = np.bincount(text_KT.ravel(), shared_KT.ravel(), minlength=num)
    return found_N.astype(np.int64)


def _closest(length_GT: NDArray[Any]) -> NDArray[np.int64]:
    """Of each text the length among the others of its group that is nearest to its own, the smaller
    of two; 0 where there are no others."""
    together = length_GT.shape[1]
    if together == 1:
        return np.zeros_like(length_GT)
    away_GTT = np.abs(length_GT[:, :, None] - length_GT[:, None, :])
    # The smaller of two that are as near comes first.
    key_GTT = away_GTT * (int(length_GT.max()) + 1) + length_GT[:, None, :]
    own = np.eye(together, dtype=bool)
    best_GT = np.where(own, np.iinfo(np.int64).max, key_GTT).argmin(2)
    return np.take_along_axis(length_GT, best_GT, axis=1)


def _numbered(row_MK: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """For each row which of the distinct ones it is, and how many there are."""
    rows = np.ascontiguousarray(row_MK)
    # As bytes, which sort several times as fast as rows of numbers.
    key_M = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]
    kinds, which_M = np.unique(key_M, return_inverse=True)
    return which_M, len(kinds)


def _alike(row_MK: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of token ids which of the distinct ones it is, and how often each is there."""
    rows = np.ascontiguousarray(row_MK.cpu().numpy())
    # As bytes, which sort several times as fast as rows of numbers.
    key_M = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]
    _, inverse_M, count_K = np.unique(key_M, return_inverse=True, return_counts=True)
    device = row_MK.device
    return torch.from_numpy(inverse_M).to(device), torch.from_numpy(count_K).to(device)


def _jackknife(distinct: float, total: float, lost_N: Tensor, size_N: Tensor) -> Estimate:
    """distinct / total, and its error from leaving out one draw at a time; no less than what the
    rule of three leaves to draws that are not there, of which 3 in n may be unlike all these, or,
    where no two are alike, like one of them."""
    num = len(lost_N)
    without_N = (distinct - lost_N) / (total - size_N).clamp(min=1.0)
    variance = (num - 1) / num * float((without_N - without_N.mean()).square().sum())
    error = max(math.sqrt(variance), RULE_OF_THREE / num / NORMAL)
    return Estimate(distinct / total, error, "heuristic", num)

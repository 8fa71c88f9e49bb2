"""Diversity of a set of draws: distinct n-grams, unique completions, and self-BLEU."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from posteriori.core.numerics import variance_of_mean
from posteriori.core.reliability import NORMAL, RULE_OF_THREE
from posteriori.core.types import Completions, Estimate


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
    together = min(TOGETHER, len(completions))
    groups = min(GROUPS, len(completions) // together)
    shown = completions.select(slice(0, together * groups)).completion_ids
    score_N = [
        score
        for start in range(0, len(shown), together)
        for score in _against_others(shown[start : start + together])
    ]
    score_G = torch.tensor(score_N, dtype=torch.float64).reshape(groups, together).mean(1) / 100
    error = math.sqrt(float(variance_of_mean(score_G))) if groups > 1 else math.nan
    return Estimate(float(score_G.mean()), error, "heuristic", len(shown))


_LONGEST = 4


def _against_others(texts: list[list[int]]) -> list[float]:
    """BLEU of each text against all the others, from 0 to 100.

    An n-gram of a text counts as often as the other that has it most: of each n-gram the two
    largest counts say that for all texts at once, where sacrebleu would count again for each.
    """
    from sacrebleu.metrics.bleu import BLEU

    counts = [_grams(text) for text in texts]
    most: dict[tuple[int, ...], tuple[int, int, int]] = {}
    for owner, found in enumerate(counts):
        for gram, count in found.items():
            first, second, whose = most.get(gram, (0, 0, -1))
            if count > first:
                most[gram] = (count, first, owner)
            elif count > second:
                most[gram] = (first, count, whose)
    scores = []
    for owner, (text, found) in enumerate(zip(texts, counts, strict=True)):
        correct, total = [0] * _LONGEST, [0] * _LONGEST
        for gram, count in found.items():
            first, second, whose = most[gram]
            correct[len(gram) - 1] += min(count, second if whose == owner else first)
            total[len(gram) - 1] += count
        lengths = [len(other) for at, other in enumerate(texts) if at != owner]
        closest = min(lengths, key=lambda length: (abs(length - len(text)), length), default=0)
        made = BLEU.compute_bleu(
            correct,
            total,
            len(text),
            closest,
            smooth_method="exp",
            effective_order=True,
            max_ngram_order=_LONGEST,
        )
        scores.append(made.score)
    return scores


def _grams(text: list[int]) -> Counter[tuple[int, ...]]:
    """Every run of up to four tokens."""
    found: Counter[tuple[int, ...]] = Counter()
    for n in range(1, _LONGEST + 1):
        found.update(zip(*(text[start:] for start in range(n)), strict=False))
    return found


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

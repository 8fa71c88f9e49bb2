"""Next tokens and their masses, in nats: one of them is drawn, and what it weighs is kept."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from posteriori.core.completions import Completions

from .resampling import Choices


def distinct(prefixes: Completions) -> tuple[Tensor, Tensor]:
    """The first place of every distinct prefix, in order, and which of them each one is [L]."""
    _, group_L = prefixes.distinct_prefixes(prefixes.lengths_N)
    at_L = torch.arange(len(group_L), device=group_L.device)
    first_G = torch.full_like(at_L, len(at_L)).scatter_reduce(0, group_L, at_L, "amin")
    first_D, order_D = first_G[: int(group_L.max()) + 1].sort()
    place_G = torch.empty_like(order_D)
    place_G[order_D] = torch.arange(len(order_D), device=order_D.device)
    return first_D, place_G[group_L]


def rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """rows[index], and no copy where that is `rows` itself: they are as wide as the vocabulary."""
    itself = len(index) == len(rows) and bool((index.diff() == 1).all())
    return rows if itself else rows[index]


def log_less(log_whole_D: Tensor, log_part_D: Tensor) -> Tensor:
    """log(whole - part); rounding may leave less than nothing."""
    return log_whole_D + torch.log1p(
        -(log_part_D - log_whole_D).exp().nan_to_num(0.0).clamp(max=1.0)
    )


class Drawn(NamedTuple):
    """A token of each of L prefixes, the log of its mass over the probability that it was drawn
    with, and the part of that which is to be withheld until the end, in nats."""

    token_L: Tensor
    log_w_L: Tensor
    log_withheld_L: Tensor


def one_of(token_LM: Tensor, log_mass_LM: Tensor, choices: Choices) -> Drawn:
    """One of the tokens, in proportion to their masses, and the log of the sum; the last one where
    all masses are 0."""
    log_sum_L = log_mass_LM.logsumexp(-1)
    some_L1 = log_sum_L[:, None] > -torch.inf
    last_LM = torch.full_like(log_mass_LM, -torch.inf)
    last_LM[:, -1] = 0.0
    at_L, _ = choices.tokens(log_mass_LM.where(some_L1, last_LM))
    token_L = token_LM.gather(1, at_L[:, None])[:, 0]
    return Drawn(token_L, log_sum_L, torch.zeros_like(log_sum_L))


def or_outside(inside: Drawn, outside: Drawn, most: float, choices: Choices) -> Drawn:
    """One of two tokens, in proportion to their masses w, but the one outside with a probability of
    at most `most` where there is a choice; what it weighs more for that is withheld."""
    log_in_L, log_out_L = inside.log_w_L, outside.log_w_L
    log_share_L = (log_out_L - torch.logaddexp(log_in_L, log_out_L)).nan_to_num(nan=-torch.inf)
    choice_L = (log_in_L > -torch.inf) & (log_out_L > -torch.inf)
    log_share_L = log_share_L.where(~choice_L, log_share_L.clamp(max=math.log(most)))
    log_rest_L = torch.log1p(-log_share_L.exp())
    at_L, _ = choices.tokens(torch.stack([log_rest_L, log_share_L], dim=1))
    stays_L = at_L == 0
    # A token without mass weighs nothing, whatever the probability that it is not chosen with.
    log_if_in_L = (log_in_L - log_rest_L).where(log_in_L > -torch.inf, -torch.inf)
    log_if_out_L = (log_out_L - log_share_L).where(log_out_L > -torch.inf, -torch.inf)
    more_L = (log_if_out_L - log_if_in_L).where(choice_L, 0.0)
    withheld_L = inside.log_withheld_L.where(stays_L, outside.log_withheld_L + more_L)
    return Drawn(
        inside.token_L.where(stays_L, outside.token_L),
        log_if_in_L.where(stays_L, log_if_out_L),
        withheld_L,
    )


def side_by_side(
    row_M: Tensor, rows: int, token_M: Tensor, log_p_M: Tensor
) -> tuple[Tensor, Tensor]:
    """What was found of each row in one row of a table, [D, K]."""
    row_M, order_M = row_M.sort(stable=True)
    number_D = torch.bincount(row_M, minlength=rows)
    start_D = number_D.cumsum(0) - number_D
    column_M = torch.arange(len(row_M), device=row_M.device) - start_D[row_M]
    token_DK = token_M.new_zeros(rows, max(int(number_D.max()), 1))
    log_p_DK = torch.full_like(token_DK, -torch.inf, dtype=torch.float64)
    token_DK[row_M, column_M] = token_M[order_M]
    log_p_DK[row_M, column_M] = log_p_M[order_M]
    return token_DK, log_p_DK

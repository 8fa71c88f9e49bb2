"""A twist evaluated at every next token, and the proposal that it guides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posteriori.models.execution.inverse_cdf import BLOCK, cell_of, in_blocks, search

_LEAST = 1e-30
"""Below this share of the largest psi, sums in float32 have no digits left."""


@dataclass(frozen=True)
class NextTokenTwist:
    """log psi_t of every next token v of every row r, in nats:

        log psi [R, V] = row_R + token_V (+ row_RK . token_VK, of a twist that has it).

    The parts are kept apart because what is common to a row cancels in the proposal, and what is
    common to all rows need not be computed for each.
    """

    row_R: Tensor
    token_V: Tensor
    row_RK: Tensor | None = None
    token_VK: Tensor | None = None

    def of(self, row_L: Tensor, token_L: Tensor) -> Tensor:
        """log psi of one next token each, float64 [L]."""
        log_psi_L = self.row_R[row_L].double() + self.token_V[token_L].double()
        if self.row_RK is not None and self.token_VK is not None:
            log_psi_L += (self.row_RK[row_L] * self.token_VK[token_L]).sum(-1).double()
        return log_psi_L

    def select(self, row_L: Tensor) -> NextTokenTwist:
        row_LK = None if self.row_RK is None else self.row_RK[row_L]
        return NextTokenTwist(self.row_R[row_L], self.token_V, row_LK, self.token_VK)

    def finite(self) -> bool:
        parts = (self.row_R, self.token_V, self.row_RK, self.token_VK)
        return all(bool(part.isfinite().all()) for part in parts if part is not None)

    def relative(self) -> Tensor:
        """psi over the largest psi of the row: [R, V], or [1, V] where all rows have the same."""
        log_psi_RV = self.token_V[None]
        if self.row_RK is not None and self.token_VK is not None:
            log_psi_RV = torch.addmm(log_psi_RV, self.row_RK, self.token_VK.t())
        return (log_psi_RV - log_psi_RV.amax(-1, keepdim=True)).exp_()


class Guided:
    """q(v) = p(v) (1 - g + g psi(v) / E_p[psi]) for each row, p = softmax(logits), g = `guidance`.

    What is left of the prior bounds what a token can weigh that the twist holds too little of. In
    a row where psi of all that the prior allows is nothing next to the largest, q = p.

    With m(v) = exp(logit(v) - max logit), M = sum m and S = sum m psi: q(v) = m(v) ((1 - g) / M +
    g psi(v) / S), so one pass of exponentials serves the draw, log q and log p.
    """

    def __init__(
        self, logits_RV: Tensor, next_token_twist: NextTokenTwist, guidance: float
    ) -> None:
        self.logits_RV = logits_RV
        self.top_R = logits_RV.amax(-1)
        self.mass_RBb = in_blocks((logits_RV - self.top_R[:, None]).exp_())
        self.psi_RBb = in_blocks(next_token_twist.relative())
        self.mass_RB = self.mass_RBb.sum(-1).double()
        self.tilted_RB = self._tilted().double()
        self.total_R = self.mass_RB.sum(-1)
        tilted_R = self.tilted_RB.sum(-1)
        g_R = torch.where(tilted_R > _LEAST * self.total_R, guidance, 0.0)
        self.of_prior_R = (1 - g_R) / self.total_R
        self.of_psi_R = torch.where(g_R > 0, g_R / tilted_R, 0.0)

    def draw(self, uniform_R: Tensor) -> Tensor:
        """A token per row, each a function of its own uniform number; float64 in [0, 1)."""
        every_R = torch.arange(len(uniform_R), device=self.mass_RB.device)
        q_RB = self.of_prior_R[:, None] * self.mass_RB + self.of_psi_R[:, None] * self.tilted_RB
        block_R, rest_R, _ = search(q_RB, uniform_R)
        inside_Rb = self.mass_RBb[every_R, block_R].double() * self._factor(every_R, block_R)
        return block_R * BLOCK + cell_of(inside_Rb, rest_R)[0]

    def log_prob(self, row_L: Tensor, token_L: Tensor) -> tuple[Tensor, Tensor]:
        """log q and log p of one token each, float64 [L]."""
        chosen_L = self.logits_RV[row_L, token_L].double()
        log_p_L = chosen_L - self.top_R[row_L].double() - self.total_R[row_L].log()
        place_L1 = (token_L % BLOCK)[:, None]
        factor_L = self._factor(row_L, token_L // BLOCK).gather(1, place_L1)[:, 0]
        return log_p_L + (factor_L * self.total_R[row_L]).log(), log_p_L

    def _factor(self, row_L: Tensor, block_L: Tensor) -> Tensor:
        """q / m for all tokens of one block each, float64 [L, b]."""
        psi_row_L = row_L if len(self.psi_RBb) > 1 else torch.zeros_like(row_L)
        psi_Lb = self.psi_RBb[psi_row_L, block_L].double()
        return self.of_prior_R[row_L, None] + self.of_psi_R[row_L, None] * psi_Lb

    def _tilted(self) -> Tensor:
        """sum m psi of each block [R, B]."""
        if len(self.psi_RBb) == 1:
            psi_Bb = self.psi_RBb[0].to(self.mass_RBb.dtype)
            return torch.einsum("rbk,bk->rb", self.mass_RBb, psi_Bb)
        return (self.mass_RBb * self.psi_RBb).sum(-1)

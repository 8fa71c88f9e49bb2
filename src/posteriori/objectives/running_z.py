"""A running estimate of Z(c), prompt by prompt, and what the draws' weights were worth."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.target import Target
from posteriori.core.types import Draws

from .base import count_by, log_sum_by


class RunningZ(torch.nn.Module):
    """Z-hat(c) = mean of w = p~(y|c) / q(y|c) over all draws y ~ q so far, whatever their q.

    Unbiased for each prompt, hard evidence included (a draw that is ruled out has w = 0), so
    E[log Z-hat] <= log Z. `before` gives what was known before a step: independent of its draws,
    and so a positive constant in that step's expected gradient. A prompt that had no weight before
    is given the mean over the step's own draws, which makes that one step self-normalised (biased
    towards the proposal, by O(1/draws)). Draws that are replayed have been counted: dividing them
    by Z-hat is biased by O(1/draws so far).
    """

    log_sum_P: Tensor
    count_P: Tensor

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        none_P = torch.zeros(len(target.prompts), dtype=torch.float64)
        self.register_buffer("count_P", none_P)
        self.register_buffer("log_sum_P", torch.full_like(none_P, -torch.inf))

    @property
    def log_z_P(self) -> Tensor:
        """log Z-hat of each of the target's prompts; -inf where no draw has had any weight."""
        return self.log_sum_P - self.count_P.clamp(min=1).log()

    def at(self, draws: Draws) -> Tensor:
        """log Z-hat at each draw's prompt, [N]."""
        at_N = self._target.prompt_positions(draws.completions)
        return self.log_z_P.to(at_N.device)[at_N]

    def before(self, draws: Draws) -> Tensor:
        """log Z-hat at each draw's prompt as it was before these draws, [N]; see the class."""
        at_N = self._target.prompt_positions(draws.completions)
        own_P = log_sum_by(draws.log_weight, at_N) - count_by(at_N).log()
        known_N = self.at(draws)
        return known_N.where(~known_N.isneginf(), own_P[at_N])

    def add(self, draws: Draws) -> None:
        """Count fresh draws in."""
        at_N, size = self._target.prompt_positions(draws.completions), len(self.count_P)
        step_P = log_sum_by(draws.log_weight, at_N, size)
        self.log_sum_P = torch.logaddexp(self.log_sum_P.to(at_N.device), step_P)
        self.count_P = self.count_P.to(at_N.device) + count_by(at_N, size)

    def figures(self, draws: Draws) -> dict[str, float]:
        """`log_z`, the mean over all prompts that have had a draw with weight (left out while none
        has), and of this step's draws `effective_draws`, (sum w)^2 / sum w^2 averaged over its
        prompts, and how many of these had no draw with weight (0 effective ones)."""
        prompt_N = draws.completions.prompt_index_N
        drawn_P = count_by(prompt_N) > 0
        log_sum_P = log_sum_by(draws.log_weight, prompt_N)[drawn_P]
        log_square_P = log_sum_by(2 * draws.log_weight, prompt_N)[drawn_P]
        without_P = log_sum_P.isneginf()
        effective_P = (2 * log_sum_P - log_square_P).exp().where(~without_P, 0.0)
        return {
            **self.log_z_figure(),
            "effective_draws": float(effective_P.mean()),
            "prompts_without_weight": int(without_P.sum()),
        }

    def log_z_figure(self) -> dict[str, float]:
        """`log_z` alone."""
        known_P = self.log_z_P[~self.log_z_P.isneginf()]
        return {"log_z": float(known_P.mean())} if len(known_P) else {}

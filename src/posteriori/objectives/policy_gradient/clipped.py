"""The clipped surrogate of PPO, and a count of what it clipped."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.distributed.exchange import gathered


def clipped_surrogate(log_ratio_NL: Tensor, advantage_NL: Tensor, epsilon: float | None) -> Tensor:
    """min(r A, clip(r, 1 - epsilon, 1 + epsilon) A) of each token, r = pi_t / (pi_t when drawn).

    Its gradient is r A grad log pi_t, and nothing once r has gone further than epsilon in the
    direction that A asks for. On the first update after a draw r = 1 and nothing is clipped. A
    product of token ratios is not formed: how earlier tokens have changed the odds of the prefix is
    left out, so from the second update on the gradient is biased, with or without the clip. `None`
    does not clip. (Schulman et al. 2017, arXiv 1707.06347, equation 7.)
    """
    ratio_NL = log_ratio_NL.exp()
    if epsilon is None:
        return ratio_NL * advantage_NL
    clipped_NL = ratio_NL.clamp(1 - epsilon, 1 + epsilon)
    return torch.minimum(ratio_NL * advantage_NL, clipped_NL * advantage_NL)


class RatioFigures:
    """How far the policy went from where it drew, over the updates of one step: for the record.

    `clip_fraction` of the tokens had their gradient cut off; `ratio_deviation` is the mean of
    |r - 1|. Begun anew at every step, and read by nothing but the record. Each of several processes
    counts the tokens of its own micro-batches.
    """

    def __init__(self, epsilon: float | None) -> None:
        self.epsilon = torch.inf if epsilon is None else epsilon
        self.tokens = self.clipped = 0
        self.deviation = 0.0

    def add(self, log_ratio_nL: Tensor, advantage_nL: Tensor, mask_nL: Tensor) -> None:
        beyond_nL = log_ratio_nL.detach().expm1()
        cut_nL = advantage_nL.sign() * beyond_nL > self.epsilon
        self.tokens += int(mask_nL.sum())
        self.clipped += int((cut_nL & mask_nL).sum())
        self.deviation += float(beyond_nL.abs().sum())

    def read(self) -> dict[str, float]:
        parts = gathered(lambda: (self.tokens, self.clipped, self.deviation))
        tokens, clipped, deviation = (sum(each) for each in zip(*parts, strict=True))
        return {"clip_fraction": clipped / tokens, "ratio_deviation": deviation / tokens}

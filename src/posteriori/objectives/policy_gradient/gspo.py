"""Group-relative advantages with one ratio for a whole outcome."""

from __future__ import annotations

from torch import Tensor

from .clipped import clipped_surrogate
from .grpo import GRPO, GRPOConfig


class GSPOConfig(GRPOConfig):
    """Settings of the objective "gspo": those of "grpo".

    Args:
        scale: divide by the standard deviation of R in the group.
        kl: the estimator of KL(pi, prior).
        kl_in: whether R ("reward") or the loss ("loss") has it.
        kl_ratio: multiply the one in the loss by the token's ratio to the policy that drew.
        clip: epsilon, of the outcome's ratio; None: no clipping.
        epochs: updates made of one step's draws.
        aggregation: "sequence" counts an outcome of n tokens n times, which is the exact gradient;
            "token_mean" once, as published, and is the gradient of no divergence.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """


class GSPO(GRPO[GSPOConfig]):
    """loss = -n min(s A, clip(s) A),  s = (pi(y|c) / the same when it was drawn)^(1/n),
    n the outcome's number of tokens.

    `grpo` with one ratio for the outcome, the geometric mean of its tokens', so that all its tokens
    are clipped or none. The first update after a draw has s = 1 and the gradient n A grad s =
    A grad log pi(y), `grpo`'s: with k1 in the reward that of KL(pi, p*), exactly. (As published,
    without the factor n, it is `aggregation = "token_mean"`.) From the second update on the n-th
    root is a bias: the importance ratio is s^n. At p* every advantage is 0, so p* stays. All else
    is as in `grpo`.

    Source: Zheng et al. 2025, arXiv 2507.18071, equations 5 and 7.
    """

    name = "gspo"

    Settings = GSPOConfig

    def surrogate(
        self, log_prob_nL: Tensor, log_ratio_nL: Tensor, advantage_n1: Tensor, mask_nL: Tensor
    ) -> Tensor:
        del log_prob_nL
        tokens_n1 = mask_nL.sum(-1, keepdim=True)
        log_s_n1 = (log_ratio_nL * mask_nL).sum(-1, keepdim=True) / tokens_n1
        return clipped_surrogate(log_s_n1, advantage_n1, self.settings.clip) * mask_nL

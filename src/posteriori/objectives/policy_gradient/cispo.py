"""Group-relative advantages with the clipped ratio as a weight: no token loses its gradient."""

from __future__ import annotations

from torch import Tensor

from .grpo import GRPO, GRPOConfig


class CISPOConfig(GRPOConfig):
    """Settings of the objective "cispo": those of "grpo".

    Args:
        scale: divide by the standard deviation of R in the group.
        kl: the estimator of KL(pi, prior).
        kl_in: whether R ("reward") or the loss ("loss") has it.
        kl_ratio: multiply the one in the loss by the token's ratio to the policy that drew.
        clip: epsilon: ratios above 1 + epsilon count as 1 + epsilon; None: no clipping.
        epochs: updates made of one step's draws.
        aggregation: "sequence" sums over an outcome's tokens; "token_mean" divides by their number.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """


class CISPO(GRPO[CISPOConfig]):
    """loss = -sum_t min(r_t, 1 + epsilon) A log pi(y_t|c, y_<t), the ratio r_t a constant.

    `grpo` takes the gradient from a token whose ratio has gone beyond the clip, for good or ill;
    here it keeps a gradient of bounded weight. The first update after a draw has r_t = 1 and is
    `grpo`'s: with k1 in the reward the gradient of KL(pi, p*), exactly. From the second on token
    ratios leave out how the odds of the prefix have changed, and the clip is a bias of its own. At
    p* every advantage is 0, so p* stays. All else is as in `grpo`.

    Source: MiniMax-M1, arXiv 2506.13585, section 3.1.
    """

    name = "cispo"

    Settings = CISPOConfig

    def surrogate(
        self, log_prob_nL: Tensor, log_ratio_nL: Tensor, advantage_n1: Tensor, mask_nL: Tensor
    ) -> Tensor:
        weight_nL = log_ratio_nL.detach().exp()
        if self.settings.clip is not None:
            weight_nL = weight_nL.clamp(max=1 + self.settings.clip)
        return weight_nL * advantage_n1 * log_prob_nL * mask_nL

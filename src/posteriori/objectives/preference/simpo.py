"""Simple preference optimisation: pairs without a reference, by the mean log-prob of a token."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from .by_token import ByToken
from .pairs import PairsConfig


class SimPOConfig(PairsConfig):
    """Settings of the objective "simpo".

    Args:
        pairs: preference data: a file, a data set, or rows of prompt, chosen, rejected; None: pairs
            of draws, which the target's evidence labels.
        pairs_per_step: pairs of the data per step.
        held_out: share of the data's prompts that is not trained on, and judges the policy.
        proposal: without `pairs`, what draws: "policy", as it stands, or "prior".
        labels: without `pairs`: "sampled" draws each label; "expected" weighs both orders by their
            probability.
        beta: what multiplies the mean log-probs.
        gamma: the margin; left out, 1 for `pairs`, as published, and 0 for draws.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    beta: float = Field(default=2.0, gt=0)
    gamma: float | None = Field(default=None, ge=0)


class SimPO(ByToken[SimPOConfig]):
    """loss = -log sigmoid(b h - gamma),  h = log pi(y1)/|y1| - log pi(y2)/|y2|,  y1 preferred,
    |y| the number of tokens.

    The prior has no part in the loss: it is where the policy starts, and no more. Where preferences
    are Bradley-Terry in b log e (labels of draws are) and gamma = 0, every pair is at rest where
    the mean log-probs differ as log e does, and as probabilities sum to one, that is at

        pi(y|c) = exp(|y| (log e(c, y) - kappa(c))),   kappa: sum_y pi(y|c) = 1

    for pairs from any proposal that reaches every completion. That is not the target: a cost per
    token, kappa, takes the prior's place, and evidence counts once per token. A margin
    gamma > 0 asks for more than the labels do, of every pair; the differences it asks for do not
    add up over three completions, so that there is a minimum but no formula. Unbiased at any number
    of draws.

    `beta` is b, and without `pairs` it scales labels and scores alike, as in `dpo`.

    Source: Meng et al. 2024, arXiv 2405.14734, equation 6 (which gives no fixed point).
    """

    name = "simpo"
    fixed_point = "exp(|y| (log evidence - kappa)), the prior left out, for gamma = 0"

    Settings = SimPOConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.gamma:
            self.fixed_point = "no formula: margins beyond the labels', and the prior left out"

    @property
    def gamma(self) -> float:
        default = 0.0 if self.settings.pairs is None else 1.0
        return default if self.settings.gamma is None else self.settings.gamma

    @property
    def label_scale(self) -> float:
        return self.settings.beta

    def score_of_mean(self, mean_N: Tensor) -> Tensor:
        return mean_N

    def pair_loss(self, h_n: Tensor, probability_n: Tensor) -> Tensor:
        x_n, gamma = self.settings.beta * h_n, self.gamma
        one_n, other_n = logsigmoid(x_n - gamma), logsigmoid(-x_n - gamma)
        return -probability_n * one_n - (1 - probability_n) * other_n

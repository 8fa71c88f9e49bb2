"""Odds-ratio preference optimisation: likelihood of what is preferred, and its odds."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from posteriori.objectives.base import Constants

from .by_token import ByToken
from .pairs import PairsConfig


class ORPOConfig(PairsConfig):
    """Settings of the objective "orpo".

    Args:
        pairs: preference data: a file, a data set, or rows of prompt, chosen, rejected; None: pairs
            of draws, which the target's evidence labels.
        pairs_per_step: pairs of the data per step.
        held_out: share of the data's prompts that is not trained on, and judges the policy.
        proposal: without `pairs`, what draws: "policy", as it stands, or "prior".
        labels: without `pairs`: "sampled" draws each label; "expected" weighs both orders by their
            probability.
        beta: lambda, the weight of the odds; 0 leaves the likelihood alone.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    beta: float = Field(default=0.1, ge=0)


class ORPO(ByToken[ORPOConfig]):
    """loss = -log P(y1) - lambda log sigmoid(logit P(y1) - logit P(y2)),  y1 preferred,
    P(y) = pi(y|c)^(1/|y|), the geometric mean of the probabilities of its |y| tokens.

    The prior has no part in the loss: it is where the policy starts, and no more. For lambda = 0
    what is left is the likelihood of preferred completions, and its minimum is in closed form:
    pi(y|c) ~ w(y)/|y|, with w the law of the preferred one of two draws (with 1/|y|, because each
    completion counts once and not per token). The odds move that towards larger gaps between what
    is preferred and what is not; with labels that are Bradley-Terry in log e their own rest is
    logit P(y) = log e(c, y) + a constant, and the minimum of the sum, which has no formula, lies
    between. None of them is the target: what the prior says of a completion is not asked.

    `beta` is lambda (0.1 by default, as in TRL). The likelihood is of the completion's tokens, and
    TRL's of the prompt's too. Unbiased at any number of draws.

    Source: Hong et al. 2024, arXiv 2403.07691, equations 6 and 7 (which give no fixed point).
    """

    name = "orpo"
    fixed_point = "between the law of preferred draws / |y| and odds by the evidence, without prior"

    Settings = ORPOConfig

    def score_of_mean(self, mean_N: Tensor) -> Tensor:
        """logit P."""
        return mean_N - torch.log(-torch.expm1(mean_N))

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        mean_n = token_log_prob_nL.sum(-1) / constants["length_N"]
        likelihood_n = -(constants["preferred_N"] * mean_n).view(-1, 2).sum(-1)
        if not self.settings.beta:
            return likelihood_n
        return likelihood_n + super().loss(token_log_prob_nL, constants)

    def pair_loss(self, h_n: Tensor, probability_n: Tensor) -> Tensor:
        odds_n = probability_n * logsigmoid(h_n) + (1 - probability_n) * logsigmoid(-h_n)
        return -self.settings.beta * odds_n

"""A rule model: the probability that a completion keeps a rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posteriori.core.numerics import log_mean_exp
from posteriori.core.occurrence import Prompt
from posteriori.reward_models.reward_model import RewardModel

REFERENCE = "..."
"""What each completion is compared with: its reward is the threshold of the rule."""


class RuleModel:
    """P(rule kept | c, y), from a reward model whose pairs were completion and reference.

        P(kept | c, y) = E_w[sigmoid((r_w(c, y) - r_w(c, reference)) / temperature)]

    The expectation is over what is not known of the head: an ensemble's members; or a Gaussian, by
    MacKay's sigmoid(m / sqrt(1 + pi v / 8)) (1992). Far from what was labelled it goes to 1/2.

    Args:
        model: the reward model.
        temperature: what r is divided by; default: the model's own, calibrated on held-out labels.

    Example:
        >>> keeps = po.RuleModel(reward_fit.model).log_kept(["The food is"], [" good"])
        >>> bool((keeps < 0).all())
        True
    """

    def __init__(self, model: RewardModel, temperature: float | None = None) -> None:
        self.model = model
        self.temperature = model.temperature if temperature is None else float(temperature)

    def log_kept(
        self, prompts: Sequence[Prompt], completions: Sequence[str], batch_size: int = 32
    ) -> Tensor:
        """log P(kept | c, y), float64 [N], nats."""
        read_ND = self.model.features(prompts, completions, batch_size)
        against_ND = self.model.features(prompts, [REFERENCE] * len(prompts), batch_size)
        diff_ND = read_ND - against_ND
        posterior = self.model.posterior
        mean_N = posterior.mean(diff_ND) / self.temperature
        if posterior.root_DD is not None:
            variance_N = (diff_ND @ posterior.root_DD).square().sum(-1) / self.temperature**2
            return logsigmoid(mean_N / (1.0 + math.pi * variance_N / 8.0).sqrt())
        if posterior.deviation_KD is not None:
            off_NK = diff_ND @ posterior.deviation_KD.T / self.temperature
            return log_mean_exp(logsigmoid(mean_N[:, None] + off_NK))
        return logsigmoid(mean_N)

    def violated(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Tensor:
        """P(rule broken | c, y), float64 [N]."""
        return -torch.expm1(self.log_kept(prompts, completions))

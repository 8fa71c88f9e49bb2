"""What is known of the last layer: its mean, and how far it may be from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from posteriori.core.numerics import log_mean_exp
from posteriori.errors import ConfigError, did_you_mean

Uncertainty = Literal["mean", "marginal", "lower"]


@dataclass(frozen=True)
class HeadPosterior:
    """Rewards r_w(c, y) = w . h(c, y) with w not quite known; all float64.

    `mean_D` is the mean of w: with it alone r is what the saved model says. `deviation_KD`: of each
    member of an ensemble from that mean; `root_DD` L: of a Gaussian with covariance L L^T. Neither,
    where no uncertainty was fitted.

    Pairs identify w only through differences of h within a prompt, so a deviation counts from a
    reference v, where all w agree by definition (Zhu, Jordan and Jiao 2023, arXiv 2301.11270, do
    the same): r_k(c, y) = mean . h + deviation_k . (h - v). `reference_D` is v, the mean feature of
    the training pairs.
    """

    mean_D: Tensor
    reference_D: Tensor
    deviation_KD: Tensor | None = None
    root_DD: Tensor | None = None

    def mean(self, feature_ND: Tensor) -> Tensor:
        """E[r], [N]."""
        return feature_ND @ self.mean_D

    def sd(self, feature_ND: Tensor, reference_ND: Tensor | None = None) -> Tensor:
        """The standard deviation of r, [N]; over K members with K - 1 in the denominator."""
        x_ND = feature_ND - (self.reference_D if reference_ND is None else reference_ND)
        if self.root_DD is not None:
            return (x_ND @ self.root_DD).norm(dim=-1)
        return (x_ND @ self._deviations().T).std(-1, unbiased=True)

    def log_evidence(
        self,
        feature_ND: Tensor,
        beta: float,
        uncertainty: Uncertainty,
        kappa: float = 1.0,
        reference_ND: Tensor | None = None,
    ) -> Tensor:
        """float64 [N], nats: E[r] / beta; log E[exp(r / beta)]; or (E[r] - kappa sd[r]) / beta.

        Of a Gaussian, log E[exp(r / beta)] = E[r] / beta + var[r] / (2 beta^2).
        """
        mean_N = self.mean(feature_ND)
        if uncertainty == "mean":
            return mean_N / beta
        if uncertainty == "lower":
            return (mean_N - kappa * self.sd(feature_ND, reference_ND)) / beta
        if self.root_DD is not None:
            return mean_N / beta + self.sd(feature_ND, reference_ND).square() / (2 * beta**2)
        x_ND = feature_ND - (self.reference_D if reference_ND is None else reference_ND)
        return mean_N / beta + log_mean_exp(x_ND @ self._deviations().T / beta)

    def check(self, uncertainty: str) -> Uncertainty:
        """Raise `ConfigError` for what this posterior cannot say."""
        known = get_args(Uncertainty)
        if uncertainty not in known:
            raise ConfigError(
                f"unknown uncertainty '{uncertainty}'",
                where="Preferences",
                hint=did_you_mean(uncertainty, known),
            )
        if uncertainty != "mean" and self.deviation_KD is None and self.root_DD is None:
            raise ConfigError(
                f"the reward model has no uncertainty, which '{uncertainty}' needs",
                where="Preferences",
                hint="train it with uncertainty='ensemble' or 'laplace', or take 'mean'",
            )
        return uncertainty  # pyright: ignore[reportReturnType]

    def _deviations(self) -> Tensor:
        assert self.deviation_KD is not None, "check() comes first"
        return self.deviation_KD

    @staticmethod
    def from_members(member_KD: Tensor, reference_D: Tensor) -> HeadPosterior:
        """An ensemble of equally likely heads; one head is no ensemble."""
        member_KD = member_KD.double()
        mean_D = member_KD.mean(0)
        deviation_KD = member_KD - mean_D if len(member_KD) > 1 else None
        return HeadPosterior(mean_D, reference_D.double(), deviation_KD)

    @staticmethod
    def gaussian(mean_D: Tensor, covariance_DD: Tensor, reference_D: Tensor) -> HeadPosterior:
        root_DD = torch.linalg.cholesky(covariance_DD)
        return HeadPosterior(mean_D, reference_D.double(), root_DD=root_DD)

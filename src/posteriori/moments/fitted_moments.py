"""lambda as it was found, and how well it meets the moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from posteriori.core.types import Cost, Estimate, Finding


@dataclass(frozen=True)
class FittedMoments:
    """lambda as it was fitted, and how far it can be trusted.

    `lambda_` has an `Estimate` a feature, in nats per unit of the feature, with its standard error
    (and one per prompt inside where each has its own); `lambda_PK` are the numbers. Of the draws
    that lambda was found with, reweighted to it: `effective_draws` over all prompts and the worst
    prompt's `pareto_k` (NaN where a sampler's draws depend on each other; both NaN where the
    outcomes were enumerated). `rounds` is how often draws were made. `covariance_PKK` is that of
    lambda's errors, one per prompt where each has its own; None where lambda is exact.
    """

    lambda_: Mapping[str, Estimate]
    lambda_PK: Tensor
    method: Literal["draws", "enumerate"]
    num_draws: int
    effective_draws: float
    pareto_k: float
    rounds: int
    findings: tuple[Finding, ...]
    cost: Cost
    covariance_PKK: Tensor | None = None

"""One line an objective: what it must show. The conformance tests run over this table.

`divergence` is what the expected gradient must be the gradient of, by enumeration (None where the
objective declares none). `fit` are the settings of a run on the oracle's cases at beta 0.5 and
`within` the exact KL(pi, p*) that it must end below on every prompt, by case. `hard` says whether
evidence that rules draws out is taken or refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from posteriori.objectives.base import Objective
from posteriori.registry import find

Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(log pi, log prior, log evidence) of every outcome of one prompt -> a scalar."""


def kl_to_target(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    return (log_pi.exp() * (log_pi - log_star(log_prior, log_evidence))).sum()


def minus_log_evidence(log_pi: Tensor, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    return -(log_pi.exp() * log_evidence).sum()


def log_star(log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    return (log_prior + log_evidence).log_softmax(0)


@dataclass(frozen=True)
class ObjectiveCase:
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    divergence: Divergence | None = None
    any_proposal: bool = False
    """The gradient is that of the divergence from any draws, not from the policy's own alone."""
    arrange: Callable[[Objective, Any], None] | None = None
    """Puts state that the exactness test assumes (a known log Z) into the objective."""
    fit: dict[str, Any] = field(default_factory=dict)
    within: tuple[float, float] | None = None
    """Exact KL(pi, p*) on every prompt of case_1 and case_2; None where p* is not where it ends."""
    hard: bool = False
    slow: bool = False

    def make(self) -> Objective:
        return find("objective", self.name)(**self.settings)

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}({shown})" if shown else self.name


_RUN = {"steps": 400, "num_samples": 16, "learning_rate": 3e-3}

CASES = [
    ObjectiveCase("rl", divergence=minus_log_evidence, any_proposal=True, fit=_RUN),
    ObjectiveCase(
        "reinforce", divergence=kl_to_target, any_proposal=True, fit=_RUN, within=(0.05, 0.05)
    ),
    ObjectiveCase(
        "rloo", divergence=kl_to_target, any_proposal=True, fit=_RUN, within=(0.02, 0.02)
    ),
]

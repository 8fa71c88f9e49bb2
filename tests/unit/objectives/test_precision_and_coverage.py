"""alpha of `fdpg` between precision and coverage, for a verifier, where p* cannot be represented.

The policy draws each token alike at every place and whatever came before: three numbers for all
sequences of two tokens. The minimum over them of each divergence is found by a fine grid and
Newton's method, no draw is made.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from simplex import minimum
from torch import Tensor

from posteriori.testing.divergences import alpha_divergence, kl_from_target

TOKENS, STEPS = 3, 2
SEQUENCES = list(itertools.product(range(TOKENS), repeat=STEPS))
CORRECT = {(0, 0), (0, 1), (1, 2)}
"""What the verifier takes. No product of one law with itself has exactly these."""

PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
ALPHAS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def law(log_token_V: Tensor) -> Tensor:
    """log pi of every sequence."""
    return torch.stack([log_token_V[list(each)].sum() for each in SEQUENCES])


IS_CORRECT = torch.tensor([each in CORRECT for each in SEQUENCES])
LOG_PRIOR = law(PRIOR)
LOG_EVIDENCE = torch.zeros(len(SEQUENCES), dtype=torch.float64).masked_fill(~IS_CORRECT, -torch.inf)


def nearest(divergence) -> Tensor:
    """log pi of the nearest policy of the family."""

    def loss(log_token_V: Tensor) -> Tensor:
        return divergence(law(log_token_V), LOG_PRIOR, LOG_EVIDENCE)

    grid = [i / 12 for i in range(1, 12)]
    tokens = [
        torch.tensor([a, b, 1 - a - b], dtype=torch.float64).log()
        for a in grid
        for b in grid
        if a + b < 0.999
    ]
    return law(minimum(loss, min(tokens, key=lambda each: float(loss(each))), most=40))


def precision(log_pi: Tensor) -> float:
    return float(log_pi[IS_CORRECT].exp().sum())


def coverage(log_pi: Tensor, draws: int = 16) -> float:
    """The mean probability that one of so many draws is a given solution."""
    return float((1 - (1 - log_pi[IS_CORRECT].exp()) ** draws).mean())


@pytest.fixture(scope="module")
def ends() -> list[Tensor]:
    return [nearest(alpha_divergence(alpha)) for alpha in ALPHAS]


def test_precision_falls_and_coverage_rises_with_alpha(ends):
    precisions = [precision(each) for each in ends]
    covered = [coverage(each) for each in ends]
    assert precisions == sorted(precisions, reverse=True)
    assert covered == sorted(covered)
    assert precisions[0] - precisions[-1] > 0.05
    assert covered[-1] - covered[0] > 0.05


def test_alpha_one_is_the_limit(ends):
    forward = nearest(kl_from_target)
    assert precision(forward) < precision(ends[-1])
    assert coverage(forward) > coverage(ends[-1])
    almost = nearest(alpha_divergence(0.9999))
    assert precision(almost) == pytest.approx(precision(forward), abs=1e-3)


def test_no_policy_of_the_family_is_the_target(ends):
    assert all(float(kl_from_target(each, LOG_PRIOR, LOG_EVIDENCE)) > 0.05 for each in ends)

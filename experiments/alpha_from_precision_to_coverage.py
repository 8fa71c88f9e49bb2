"""alpha takes a verifier's policy from precision to coverage.

p* is the prior given that the verifier says yes, and the policies are those that draw every token
by one law, whatever came before: none of them is p*. The one that is nearest by the alpha-
divergence is found without a draw. As alpha goes from 0 (reverse KL) to 1 (forward KL), pass@1
falls, and the share of the solutions that many draws find rises (2512.05962).

    python experiments/alpha_from_precision_to_coverage.py [--quick] [--figure alpha.svg]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from common import Verdict, figure, main

from posteriori.testing.divergences import alpha_divergence

TOKENS, LENGTH, DRAWS = 4, 4, 256
SEQUENCES = torch.tensor(list(itertools.product(range(TOKENS), repeat=LENGTH)))
PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()


VERIFIERS = 3
SLACK = 0.01
"""What coverage may lose from one alpha to the next: past the middle it is flat."""


def run(num_alphas: int) -> Verdict:
    alphas = np.linspace(0.05, 0.95, num_alphas)
    found = np.array([_of_verifier(seed, alphas) for seed in range(VERIFIERS)])
    steps = np.diff(found, axis=1)
    precision, coverage = found.mean(0).T
    drawn, axes = figure("Precision and coverage of the nearest policy", "alpha", "probability")
    axes.plot(alphas, precision, "C0-", label="pass@1")
    axes.plot(alphas, coverage, "C1--", label=f"solutions found by {DRAWS} draws")
    axes.legend(fontsize=8)
    falls = float(steps[..., 0].max())
    loses = -float(steps[..., 1].min())
    return Verdict(
        "alpha goes from precision to coverage",
        bool(falls < 0 and loses < SLACK and (found[:, -1, 1] > found[:, 0, 1] + 0.05).all()),
        f"from alpha {alphas[0]:.2f} to {alphas[-1]:.2f}: pass@1 {precision[0]:.3f} -> "
        f"{precision[-1]:.3f}, solutions found by {DRAWS} draws {coverage[0]:.3f} -> "
        f"{coverage[-1]:.3f} (means of {VERIFIERS} verifiers); from one of {num_alphas} alphas to "
        f"the next pass@1 always falls, and no coverage falls by more than {max(loses, 0):.3f}",
        drawn,
    )


def _of_verifier(seed: int, alphas: np.ndarray) -> list[tuple[float, float]]:
    """pass@1 and coverage at each alpha, of a verifier that takes a tenth of all sequences."""
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(len(SEQUENCES), generator=generator) < 0.1
    log_prior = PRIOR[SEQUENCES].sum(1)
    log_evidence = torch.zeros_like(log_prior).masked_fill(~correct, -torch.inf)
    rows = []
    for alpha in alphas:
        divergence = alpha_divergence(float(alpha))
        law = _nearest(lambda log_pi, d=divergence: d(log_pi, log_prior, log_evidence))
        found = 1 - (1 - law[correct].exp()) ** DRAWS
        rows.append((float(law[correct].exp().sum()), float(found.mean())))
    return rows


Loss = Callable[[torch.Tensor], torch.Tensor]


def _nearest(loss: Loss) -> torch.Tensor:
    """log pi of every sequence, of the best of several starts."""
    laws = [_descended(loss, seed) for seed in range(8)]
    return min(laws, key=lambda law: float(loss(law)))


def _descended(loss: Loss, seed: int) -> torch.Tensor:
    start = torch.randn(TOKENS, generator=torch.Generator().manual_seed(seed)).double()
    logits = (PRIOR + (start if seed else 0.0)).requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [logits],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def value() -> float:
        optimiser.zero_grad()
        found = loss(logits.log_softmax(0)[SEQUENCES].sum(1))
        found.backward()
        return found  # pyright: ignore

    optimiser.step(value)
    return logits.detach().log_softmax(0)[SEQUENCES].sum(1)


if __name__ == "__main__":
    main(run, __doc__ or "", (4, 13))

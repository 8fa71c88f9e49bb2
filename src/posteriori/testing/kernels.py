"""A Markov kernel leaves the law alone that it says it leaves alone."""

from __future__ import annotations

from torch import Tensor

from .failures import CheckFailedError


def check_kernel(
    matrix_SS: Tensor, law_S: Tensor, *, reversible: bool = False, tolerance: float = 1e-12
) -> float:
    """A kernel leaves a law as it is, by matrix.

        pi K = pi

    Args:
        matrix_SS: K(y, y') over every outcome of one prompt, float64 [S, S]: written down by the
            kernel's own formula, or by `kernel_matrix.KernelMatrix` for suffix moves.
        law_S: pi, float64 [S].
        reversible: whether pi(y) K(y, y') = pi(y') K(y', y) as well, which annealing backwards
            needs.
        tolerance: of every entry.

    Returns:
        max |pi K - pi|.

    Raises:
        CheckFailedError: for negative entries, rows that do not sum to 1, another law, or a flow
            that is not the same both ways.

    Example:
        >>> import torch
        >>> from posteriori import testing
        >>> law = torch.tensor([0.2, 0.8], dtype=torch.float64)
        >>> testing.check_kernel(law.expand(2, 2), law) < 1e-12
        True
    """
    if bool((matrix_SS < -tolerance).any()):
        raise CheckFailedError(f"the kernel has a probability of {float(matrix_SS.min()):.2g}")
    rows = float((matrix_SS.sum(1) - 1).abs().max())
    if not rows <= tolerance:
        raise CheckFailedError(f"a row of the kernel is off from a sum of 1 by {rows:.2g}")
    gap_S = law_S @ matrix_SS - law_S
    gap = float(gap_S.abs().max())
    if not gap <= tolerance:
        raise CheckFailedError(
            f"the kernel moves the law: pi K - pi is {float(gap_S[gap_S.abs().argmax()]):.2g} at "
            f"outcome {int(gap_S.abs().argmax())}",
            hint="is the probability to propose the way back in the acceptance?",
        )
    flow_SS = law_S[:, None] * matrix_SS
    uneven = float((flow_SS - flow_SS.T).abs().max())
    if reversible and not uneven <= tolerance:
        raise CheckFailedError(f"the kernel is not reversible: a flow differs by {uneven:.2g}")
    return gap

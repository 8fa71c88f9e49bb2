"""Training ends where the objective says, and ends there again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from posteriori.objectives.base import Objective
from posteriori.train.fit import fit

from .cases import Case, table_case
from .failures import CheckFailedError


def check_fit(
    objective: Callable[[], Objective],
    *,
    within: float,
    case: Case | None = None,
    seed: int = 0,
    **settings: Any,
) -> float:
    """A run of `posteriori.fit` ends near its target, exactly measured.

        KL(pi, p*) <= within, for every prompt

    The run is made twice, and a seed has to give the same weights, bit for bit.

    Args:
        objective: makes the objective: its class, or a function without arguments.
        within: the bound on KL(pi, p*) in nats on every prompt.
        case: the target; default `table_case()`.
        seed: of the run, which decides all of it.
        settings: of `posteriori.fit`; default 200 steps of 16 draws at learning_rate 0.05.

    Returns:
        The largest KL(pi, p*) of a prompt, nats.

    Raises:
        CheckFailedError: it ends farther away, or elsewhere the second time.

    Example:
        >>> from posteriori import testing
        >>> from posteriori.objectives.policy_gradient.rloo import RLOO
        >>> testing.check_fit(RLOO, within=0.05) < 0.05
        True
    """
    case = case or table_case()
    settings = {"steps": 200, "num_samples": 16, "learning_rate": 0.05, **settings}
    runs = [
        fit(case.target, objective(), seed=seed, on_note=lambda _: None, **settings)
        for _ in range(2)
    ]
    first, second = (run.policy.trained_state() for run in runs)
    if not all(torch.equal(first[name], second[name]) for name in first):
        raise CheckFailedError(
            "the same seed gave other weights the second time",
            where=f"objective '{runs[0].objective}'",
            hint="draw from the generator that `draw` is given, or from one of the seed",
        )
    distance = float(case.exact.evaluate(runs[0].policy)["kl_to_target"].max())
    if not distance <= within:
        raise CheckFailedError(
            f"KL(policy, target) is {distance:.3g} nats at the end, and was to be {within:g}",
            where=f"objective '{runs[0].objective}'",
        )
    return distance

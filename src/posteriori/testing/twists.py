"""Whatever a twist says, SMC with it is properly weighted."""

from __future__ import annotations

from typing import Any

import torch

from posteriori.core.hooks import name_of
from posteriori.diagnostics.exact.exact import exact
from posteriori.samplers.smc.make_twist import make_twist
from posteriori.samplers.smc.populations import Plan, Populations
from posteriori.samplers.smc.resampling import Scheme

from .cases import Case, table_case
from .failures import CheckFailedError
from .walk import Walk

EXACT = 1e-8


def check_twist(
    twist: Any,
    *,
    case: Case | None = None,
    resampling: Scheme = "systematic",
    threshold: float = 1.0,
    sizes: tuple[int, ...] = (2,),
) -> float:
    """A twist leaves SMC's weights proper, by the whole probability tree.

        E[mean over the draws of w 1(y)] = p~(y) for every outcome y

    A twist is a guess of the evidence to come. It moves particles, and the weights take out again
    what it put in: so no twist, however wrong, may change what is estimated.

    Args:
        twist: a `Twist`, or what `make_twist` takes.
        case: a table; default `table_case(hard=True)`.
        resampling: "systematic", "stratified" or "multinomial".
        threshold: resample below this share of effective particles; 1.0: always.
        sizes: particles of each population that runs side by side.

    Returns:
        The largest difference.

    Raises:
        CheckFailedError: the weights are not proper.

    Example:
        >>> from posteriori import testing
        >>> testing.check_twist("evidence") < 1e-8
        True
    """
    case = case or table_case(hard=True)
    plan = Plan(case.target, case.proposal, make_twist(twist), resampling, threshold)
    off = off_target(plan, sizes)
    if not off <= EXACT:
        raise CheckFailedError(
            f"draws are not properly weighted: the mean weight of an outcome is off by {off:.2g}",
            where=f"twist '{name_of(plan.twist)}'",
            hint="a twist says log psi of what is there so far, and draws from the generator that "
            "it is given",
        )
    return off


def off_target(
    plan: Plan, sizes: tuple[int, ...] = (2,), kind: type[Populations] = Populations
) -> float:
    """max_y |E[mean w 1(y)] - p~(y)| over the draws of all populations, for the last prompt."""
    enumerated, prompts = exact(plan.target), plan.target.prompts[-1:]
    outcomes = {tuple(y): at for at, y in enumerate(enumerated.outcomes[-1].completion_ids)}
    expected = torch.zeros(len(outcomes), dtype=torch.float64)
    total = 0.0
    parent_G, size_G = torch.zeros(len(sizes), dtype=torch.long), torch.tensor(sizes)
    for walk in Walk():
        draws = kind(plan, prompts, parent_G, size_G, walk).run()
        total += walk.probability
        weight = walk.probability * draws.log_weight.exp() / len(draws)
        rows = torch.tensor([outcomes[tuple(y)] for y in draws.completion_ids])
        expected.index_add_(0, rows, weight)
    assert abs(total - 1) < 1e-10, "the walk has taken every path once"
    wanted = (enumerated.log_prior[-1] + enumerated.log_evidence[-1]).exp()
    return float((expected - wanted).abs().max())

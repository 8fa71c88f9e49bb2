"""A check is worth something if it catches what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .failures import CheckFailedError


def check_mutants(
    check: Callable[[Any], object], mutants: Iterable[Any] | Mapping[str, Any]
) -> list[str]:
    """Every wrong variant is caught by a check.

    `check` of each has to raise `CheckFailedError`: a check that passes them would say little.

    Args:
        check: one of this package's, or a function that calls several of them.
        mutants: wrong variants of what is checked (a ratio left out, half of beta): classes,
            functions, instances; by name, or named after themselves.

    Returns:
        Their names.

    Raises:
        CheckFailedError: a mutant passes.

    Example:
        >>> from posteriori import testing
        >>> from posteriori.objectives.policy_gradient.rloo import RLOO
        >>> class WithoutPrior(RLOO):
        ...     def advantage(self, draws, log_prob_N):
        ...         return super().advantage(draws, log_prob_N + draws.log_prior_N)
        >>> testing.check_mutants(testing.check_gradient, [WithoutPrior])
        ['WithoutPrior']
    """
    named = mutants if isinstance(mutants, Mapping) else {_name(each): each for each in mutants}
    passed = []
    for name, mutant in named.items():
        try:
            check(mutant)
        except CheckFailedError:
            continue
        passed.append(name)
    if passed:
        raise CheckFailedError(
            f"wrong variants pass: {', '.join(passed)}",
            hint="the check does not see what is wrong with them: check more, or elsewhere",
        )
    return list(named)


def _name(mutant: Any) -> str:
    return getattr(mutant, "__name__", None) or type(mutant).__name__

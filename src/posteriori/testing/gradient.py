"""The expected gradient of an objective is the gradient of what it says that it minimises."""

from __future__ import annotations

from collections.abc import Callable

import torch

from posteriori.errors import ConfigError
from posteriori.objectives.base import Objective

from .divergences import BY_FORMULA, Divergence
from .failures import CheckFailedError
from .worlds import World

EXACT = 1e-8
_SOME = 0.01
"""A gradient below which nothing would be shown."""


def check_gradient(
    objective: Callable[[], Objective],
    divergence: Divergence | None = None,
    *,
    prompts: tuple[str, ...] = ("x", "y"),
    num_samples: int = 2,
    elsewhere: bool = False,
    arrange: Callable[[Objective, World], None] | None = None,
    tolerance: float = EXACT,
) -> float:
    """The mean loss has the gradient of the divergence that is declared, by enumeration.

        E[grad mean loss] = grad mean over prompts of D(pi, p*)

    There is no randomness in it: on a table of two words and two tokens every tuple of draws is
    written down, weighed by its probability under the proposal, and the loop's own loss (the mean
    of `Objective.loss` over the draws) is summed over all of them. D's gradient is autograd's.

    Args:
        objective: makes the objective: its class, or a function without arguments.
        divergence: D as a function of (log pi, log prior, log evidence) over all outcomes of a
            prompt; default: that of `Objective.divergence`, where `divergences.BY_FORMULA` has it.
        prompts: of one step; several show that their draws are kept apart.
        num_samples: draws per prompt; there are 7^num_samples tuples per prompt.
        elsewhere: draws come from a third distribution in place of the policy: the objective has to
            count them by pi/q.
        arrange: is called with the prepared objective and the world, to put state into it that a
            long run would have: a known log Z, say.
        tolerance: the largest difference of an entry of the gradient.

    Returns:
        The largest difference of an entry of the gradient.

    Raises:
        CheckFailedError: the gradient is another.
        ConfigError: the objective declares no divergence and none is given.

    Example:
        >>> from posteriori import testing
        >>> from posteriori.objectives.policy_gradient.rloo import RLOO
        >>> testing.check_gradient(RLOO) < 1e-8
        True
    """
    made = objective()
    world = World(prompts, num_samples, elsewhere=elsewhere)
    made.prepare(world.target, lambda: world.policy, seed=0)
    if arrange is not None:
        arrange(made, world)
    found = world.expected_gradient(made)
    expected = world.gradient_of(divergence or declared(made))
    if not float(expected.abs().max()) > _SOME:
        raise ConfigError("the divergence's gradient is zero in this world, which shows nothing")
    off = float((found - expected).abs().max())
    if not off <= tolerance:
        along = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
        raise CheckFailedError(
            f"the expected gradient is off by {off:.2g} from that of "
            f"{made.divergence or 'the divergence'}, whose largest entry is "
            f"{float(expected.abs().max()):.2g} (cosine {float(along):.4f})",
            where=f"objective '{made.name}'",
            hint="a baseline that its own draw is part of, a ratio that is missing, or a constant "
            "with a gradient?",
        )
    return off


def declared(objective: Objective) -> Divergence:
    """What `objective` says that it minimises. Raises `ConfigError`."""
    formula = objective.divergence
    if formula not in BY_FORMULA:
        raise ConfigError(
            f"the objective declares the divergence {formula!r}",
            where=f"objective '{objective.name}'",
            hint=f"give divergence=, or declare one of: {', '.join(BY_FORMULA)}",
        )
    return BY_FORMULA[formula]

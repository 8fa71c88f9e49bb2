"""A KL budget is kept: fit to so many nats, and the trained policy spends about as many.

The frontier, from draws of the prior alone, says which beta has a posterior of that KL; `rloo` at
that beta is then trained, and its own KL to the prior is measured: on the bundled language model,
whose reward is how many of a completion's words have an "e" in them, by new draws, and quickly on
a table of next-token probabilities, exactly.

    python experiments/kl_budget_is_kept.py [--quick] [--figure kl_budget_is_kept.svg]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import common
from common import Verdict, figure, main

import posteriori as po

WITHIN = 0.1
DRAWS = 1000
"""Of the policy, to measure its KL by."""


class World(NamedTuple):
    """A prior and a reward without a price, what may be spent, and how it is trained."""

    target: po.Target
    budgets: tuple[float, ...]
    settings: dict[str, Any]
    spent: Callable[[po.Target, Any], po.Estimate]


def language_model() -> World:
    def words_with_e(completions: list[str], **_: object) -> list[float]:
        return [float(sum("e" in word.lower() for word in text.split())) for text in completions]

    def by_draws(target: po.Target, policy: Any) -> po.Estimate:
        return po.evaluate(target, policy, DRAWS)["kl_to_prior"]

    return World(
        po.Target(po.load("tiny"), po.Reward(words_with_e), ["I think you are"], 8),
        (1.0, 2.0),
        {
            "steps": 120,
            "num_samples": 32,
            "learning_rate": 1e-4,
            "warmup_steps": 3,
            "budget_samples": 12000,
            "budget_stages": 0,
        },
        by_draws,
    )


def table() -> World:
    def exactly(target: po.Target, policy: Any) -> po.Estimate:
        values = po.exact(target).evaluate(policy)["kl_to_prior"]
        return po.Estimate(float(values.mean()), 0.0, "exact", 0)

    return World(
        po.Target(common.prior(), po.Reward(common.reward), common.PROMPTS, common.DEPTH),
        (0.5, 1.0),
        {"steps": 200, "num_samples": 32, "learning_rate": 0.1, "budget_samples": 20000},
        exactly,
    )


def run(size: int) -> Verdict:
    world = language_model() if size else table()
    drawn, axes = figure("Nats spent, of those allowed", "step", "KL to the prior, nats")
    lines, shares = [], []
    for color, budget in enumerate(world.budgets):
        fit = po.fit(world.target, "rloo", kl_budget=budget, **world.settings)
        assert fit.budget is not None
        assert fit.target is not None
        spent = world.spent(fit.target, fit.policy)
        shares.append(spent.value / budget)
        lines.append(f"of {budget:g} nats (beta {fit.budget.beta:.3g}) it spends {spent}")
        axes.axhline(budget, color=f"C{color}", linestyle="--")
        steps = [record["step"] for record in fit.history]
        spending = [record["kl_to_prior"] for record in fit.history]
        axes.plot(steps, spending, f"C{color}", label=f"{budget:g} nats")
    axes.legend(fontsize=8)
    return Verdict(
        f"the trained policy's KL to the prior is within {WITHIN:.0%} of its budget",
        all(abs(share - 1) < WITHIN for share in shares),
        "; ".join(lines),
        drawn,
    )


if __name__ == "__main__":
    main(run, __doc__ or "", (0, 1))

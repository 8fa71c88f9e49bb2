"""What the weights of draws say about how far they can be trusted, in words."""

from __future__ import annotations

import math

from ..numerics import ess, pareto_k, reliable_k
from ..rows_of_prompts import rows_of_prompts
from ..types import Draws, Finding

FEW = 0.01
"""Below this share of effective draws the sample hangs on a handful of them."""


def findings_of_draws(draws: Draws) -> list[Finding]:
    """Findings on the worst prompt; none for draws that weigh all the same."""
    found: list[Finding] = []
    if draws.guarantee == "exact":
        return found
    completions = draws.completions
    worst_k, worst_share, without = -math.inf, math.inf, []
    log_w_N, mine = draws.log_weight.cpu(), rows_of_prompts(completions)
    for rows, prompt in zip(mine, completions.prompt_set, strict=True):
        log_w_n = log_w_N[rows]
        if len(log_w_n) == 0 or bool(log_w_n.isneginf().all()):
            without.append(prompt)
            continue
        worst_share = min(worst_share, float(ess(log_w_n)) / len(log_w_n))
        k = pareto_k(log_w_n)
        limit = reliable_k(len(log_w_n))
        if k > limit:
            worst_k = max(worst_k, k)
    if without:
        found.append(
            Finding(
                "stop",
                "evidence_never_satisfied",
                f"No draw has any weight for {len(without)} of {len(completions.prompt_set)} "
                f"prompts, the first {str(without[0])[:60]!r}.",
                "Draw more, or from a proposal that is nearer to the target.",
            )
        )
    if worst_k > -math.inf:
        found.append(
            Finding(
                "warn",
                "weights_not_trusted",
                f"pareto_k is {worst_k:.2f}: a few draws carry the weights, so log_z is likely "
                "too low and resampled draws repeat themselves.",
                "Draw more, use a policy as the proposal, or another sampler (smc, annealed).",
            )
        )
    elif worst_share < FEW:
        found.append(
            Finding(
                "warn",
                "few_effective_draws",
                f"Of a prompt's draws {worst_share:.2%} are effective.",
                "Draw more, use a policy as the proposal, or another sampler (smc, annealed).",
            )
        )
    return found

"""What the figures mean, in words: each finding names its figure and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..numerics import reliable_k
from ..types import Draws, Estimate, Finding

COLLAPSED_SHARE = 0.5
"""A policy with less than half of the prior's distinct completions is called collapsed."""

LARGE_ERROR = 0.1
"""A standard error of log_z past which it rests on fewer than a hundred effective draws."""


def findings_of(
    figures: Mapping[str, Estimate], draws: Draws, prior_unique: Estimate | None
) -> list[Finding]:
    """The findings on one policy. `prior_unique` is the prior's own unique fraction."""
    found = [
        _evidence_never_seen(figures["log_z"]),
        _ruled_out(draws),
        _untrusted_weights(figures["pareto_k"], figures["log_z"]),
        _collapsed(figures["unique_fraction"], figures["entropy"], prior_unique),
    ]
    return [finding for finding in found if finding is not None]


def _evidence_never_seen(log_z: Estimate) -> Finding | None:
    missed = [i for i, e in enumerate(log_z.per_prompt) if e.value == -math.inf]
    if not missed:
        return None
    return Finding(
        "stop",
        "evidence_never_satisfied",
        f"No draw of the policy or of the prior has any evidence for prompt {missed[0]} "
        f"({len(missed)} of {len(log_z.per_prompt)} prompts): log_z is unknown.",
        "Raise num_samples, or check that the evidence can be satisfied at all.",
    )


def _ruled_out(draws: Draws) -> Finding | None:
    ruled_out = int(draws.log_evidence_N.isneginf().sum())
    if not ruled_out:
        return None
    share = ruled_out / len(draws)
    return Finding(
        "warn",
        "evidence_ruled_out",
        f"The evidence rules out {ruled_out} of {len(draws)} draws ({share:.1%}), "
        "so kl_to_target is infinite.",
        "Sample from the target (rejection, importance), or soften the evidence.",
    )


def _untrusted_weights(pareto_k: Estimate, log_z: Estimate) -> Finding | None:
    """By the tail of the weights, or by how few of them carry log_z: se^2 = 1/ess - 1/N."""
    draws_each = log_z.per_prompt[0].num_draws
    limit = reliable_k(draws_each)
    heavy = [e.value for e in pareto_k.per_prompt if not e.value <= limit]
    errors = [e.standard_error for e in log_z.per_prompt if math.isfinite(e.standard_error)]
    loose = [error for error in errors if error > LARGE_ERROR]
    if heavy:
        shown = "unknown (too few weights)" if any(map(math.isnan, heavy)) else f"{max(heavy):.2f}"
        why = f"pareto_k is {shown}, above {limit:.2f}, for {len(heavy)}"
    elif loose:
        why = f"the standard error of log_z is up to {max(loose):.2f} nats for {len(loose)}"
    else:
        return None
    return Finding(
        "warn",
        "weights_not_trusted",
        f"{why} of {len(log_z.per_prompt)} prompts: log_z rests on few of the draws, is likely too "
        "low, and kl_to_target with it.",
        "Raise num_samples, or evaluate a policy that is nearer to the target.",
    )


def _collapsed(
    unique: Estimate, entropy: Estimate, prior_unique: Estimate | None
) -> Finding | None:
    if prior_unique is None or unique.value >= COLLAPSED_SHARE * prior_unique.value:
        return None
    return Finding(
        "warn",
        "collapsed",
        f"unique_fraction is {unique.value:.1%} where the prior's is {prior_unique.value:.1%}, at "
        f"an entropy of {entropy.value:.2f} nats: the policy repeats itself.",
        "Raise beta, or use an objective with a target instead of reward alone.",
    )

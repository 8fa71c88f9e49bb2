"""What the figures mean, in words: each finding names its figure and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posteriori.core import reliability
from posteriori.core.types import Draws, Estimate, Finding
from posteriori.diagnostics.collapse import SURE, collapse
from posteriori.diagnostics.wasted import Wasted

NEAR = 0.02
"""Nats. KL(pi, p) <= 0.02 is a total variation of at most sqrt(0.02 / 2) = 0.1 (Pinsker): fewer
than a tenth of the draws would have to be others. A policy that near to a posterior is there."""

MUCH = 0.5
"""Of a distance or a cost: a part is called large where it is more than all the rest."""


@dataclass(frozen=True)
class Beside:
    """What the findings need besides the figures. `prior_unique` is the prior's own unique fraction
    (None where the policy is the prior), `target_truncated` the share of the target's completions
    that `max_new_tokens` cuts, `faults` what is wrong with each prompt's weights in words, and
    `never_varies` the finding on evidence that is all the same. A target that `has_evidence` none
    is the prior, and the distance from it is no fault."""

    waste: Wasted
    prior_unique: Estimate | None
    target_truncated: Estimate
    faults: Sequence[str] = ()
    never_varies: Finding | None = None
    has_evidence: bool = True


def findings_of(figures: Mapping[str, Estimate], draws: Draws, beside: Beside) -> list[Finding]:
    """The findings on one policy. Those that compare it with its target never speak of a policy
    that is the target, but for one chance in a million, nor of the prior for being the prior."""
    found = [
        _evidence_never_seen(figures["log_z"]),
        _ruled_out(draws),
        reliability.finding(
            beside.faults,
            "log_z rests on few of the draws and is likely too low, and kl_to_target with it.",
            "Raise num_samples, or evaluate a policy that is nearer to the target.",
        ),
        beside.never_varies,
        beside.waste.finding,
        _collapsed(figures, beside.prior_unique),
        *(
            [_elsewhere(figures, beside.waste), _over_optimised(figures, beside.waste)]
            if beside.has_evidence
            else [_no_evidence()]
        ),
        _truncated(figures, beside.target_truncated),
    ]
    return [finding for finding in found if finding is not None]


def _no_evidence() -> Finding:
    return Finding(
        "info",
        "no_evidence",
        "The target has no evidence: it is the prior itself, so kl_to_target and what goes with it "
        "are distances from the prior and say nothing against a policy.",
        "Judge a policy that was trained on preference pairs by those it did not see: "
        "report.with_pairs(fit.pairs); or make the preferences the target (po.Preferences).",
    )


def _evidence_never_seen(log_z: Estimate) -> Finding | None:
    missed = [i for i, e in enumerate(log_z.per_prompt) if e.value == -math.inf]
    if not missed:
        return None
    return Finding(
        "stop",
        reliability.NEVER_SATISFIED,
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


def _collapsed(figures: Mapping[str, Estimate], prior_unique: Estimate | None) -> Finding | None:
    own, wanted, unique = (figures[k] for k in ("entropy", "target_entropy", "unique_fraction"))
    level = collapse(own, wanted)
    if level is None:
        return None
    of_prior = "" if prior_unique is None else f" (the prior's {prior_unique.value:.1%})"
    return Finding(
        level,
        "collapsed",
        f"entropy is {own.value:.2f} nats where target_entropy is {wanted.value:.2f}, and "
        f"{unique.value:.1%} of the draws are distinct{of_prior}: the policy repeats itself.",
        "Raise beta, or use an objective with a target instead of reward alone.",
    )


def _elsewhere(figures: Mapping[str, Estimate], waste: Wasted) -> Finding | None:
    """Most of the distance to the target is one of strength: the posterior at another beta is much
    nearer than the target. The prior is such a one itself, and has not set out."""
    kl, nats, beta = figures["kl_to_target"], waste.nats, waste.beta.value
    gap = kl.value - nats.value - SURE * math.hypot(kl.standard_error, nats.standard_error)
    if not (math.isfinite(kl.value) and gap > max(NEAR, MUCH * kl.value)):
        return None
    if not _has_set_out(figures):
        return None
    nearer = (
        f"kl_to_target is {kl.value:.3g} nats, but {nats.value:.3g} (wasted_nats) from the "
        f"posterior at beta {beta:.3g} (effective_beta): the policy"
    )
    if waste.t < 1:
        return Finding(
            "warn",
            "not_converged",
            f"{nearer} has gone part of the way to the target.",
            "Train longer or with a larger learning rate, or check the beta that it is trained by.",
        )
    return Finding(
        "warn",
        "past_the_target",
        f"{nearer} has gone past the target.",
        "Stop earlier, or check the beta that it is trained by.",
    )


def _over_optimised(figures: Mapping[str, Estimate], waste: Wasted) -> Finding | None:
    """Over half of the KL from the prior has bought nothing: the frontier has that much evidence
    for the other half."""
    paid, nats = figures["kl_to_prior"], waste.nats
    if waste.bound or not math.isfinite(figures["kl_to_target"].value):
        return None
    surplus = nats.value - SURE * math.hypot(nats.standard_error, MUCH * paid.standard_error)
    if not surplus > max(NEAR, MUCH * paid.value):
        return None
    if waste.t == 0:
        cheaper = "the prior itself has no less evidence"
    else:
        saved = paid.value - nats.value
        cheaper = f"a posterior has as much evidence {saved:.3g} nats from the prior"
    return Finding(
        "warn",
        "over_optimised",
        f"wasted_nats is {nats.value:.3g} of a kl_to_prior of {paid.value:.3g} nats: {cheaper}.",
        "Stop earlier, raise beta, lower the learning rate, or draw more a step.",
    )


def _has_set_out(figures: Mapping[str, Estimate]) -> bool:
    """Whether it is another policy than the prior."""
    paid = figures["kl_to_prior"]
    return paid.value - SURE * paid.standard_error > NEAR


def _truncated(figures: Mapping[str, Estimate], wanted: Estimate) -> Finding | None:
    """Most of its completions are cut, and most of the target's are not."""
    own = figures["truncated"]
    if not _has_set_out(figures):
        return None
    error = SURE * math.hypot(own.standard_error, wanted.standard_error)
    if not (own.value > 0.5 > wanted.value and own.value - wanted.value > error):
        return None
    return Finding(
        "warn",
        "mostly_truncated",
        f"truncated is {own.value:.1%}: most completions ran into max_new_tokens, where the target "
        f"has {wanted.value:.1%}.",
        "Train longer, reward an end, or raise max_new_tokens.",
    )

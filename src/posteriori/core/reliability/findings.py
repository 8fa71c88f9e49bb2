"""The names of findings about weights, and which figures each of them puts in doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from posteriori.core.types import Estimate, Finding

NOT_TRUSTED = "weights_not_trusted"

LOG_Z_NOT_TRUSTED = "log_z_not_trusted"
"""Of samplers whose draws are no weighted ones: their log Z rests on weights, and they do not."""

NEVER_SATISFIED = "evidence_never_satisfied"
"""No draw of some prompt has any weight."""

ONLY_A_BOUND = "wasted_nats_is_a_bound"
"""The figure is known, as a bound of what it is named after."""

WASTE_NOT_TRUSTED = "wasted_nats_not_trusted"
"""The weights at the strength of the evidence that is nearest to the policy are not trusted."""

NEVER_VARIES = "evidence_never_varies"
"""All draws have one and the same evidence, and no bound on it is known."""

RESTS_ON_WEIGHTS = frozenset(
    ("log_z", "eubo", "kl_to_target", "kl_from_target", "tv", "js", "target_entropy", "ess")
)
"""The figures of an evaluation that the weights at the target are behind. The others are means of
the policy's own draws, or judged at another strength of the evidence (`wasted_nats`)."""

_OF_WASTE = frozenset(("wasted_nats", "effective_beta"))

DOUBTS = {
    NOT_TRUSTED: RESTS_ON_WEIGHTS,
    NEVER_SATISFIED: RESTS_ON_WEIGHTS,
    NEVER_VARIES: RESTS_ON_WEIGHTS,
    LOG_Z_NOT_TRUSTED: frozenset(("log_z",)),
    WASTE_NOT_TRUSTED: _OF_WASTE,
    ONLY_A_BOUND: _OF_WASTE,
}
"""What may be off by more than its error after a finding of this name."""


def finding(faults: Sequence[str], what: str, hint: str, name: str = NOT_TRUSTED) -> Finding | None:
    """The faults of all prompts (empty where there is none) as one finding, or none: `what` rests
    on weights that cannot be trusted."""
    found = [each for each in faults if each]
    if not found:
        return None
    return Finding(
        "warn", name, f"{found[0]} ({len(found)} of {len(faults)} prompts): {what}", hint
    )


def judged(figures: Mapping[str, Estimate], found: Sequence[Finding]) -> dict[str, Estimate]:
    """The figures, each with those of the findings that are about it (`DOUBTS`)."""
    about = {
        name: tuple(each for each in found if name in DOUBTS.get(each.name, ())) for name in figures
    }
    return {
        name: replace(e, findings=(*e.findings, *about[name])) if about[name] else e
        for name, e in figures.items()
    }


def trusted(name: str, figure: Estimate, found: Sequence[Finding] = ()) -> bool:
    """Whether a figure may be taken at its standard error: that is finite, and no finding on the
    figure, or `found` on all of them, says otherwise."""
    doubted = any(name in DOUBTS.get(each.name, ()) for each in found)
    of_its_own = any(each.level != "info" or each.name in DOUBTS for each in figure.findings)
    return math.isfinite(figure.standard_error) and not doubted and not of_its_own

"""The most evidence that an outcome may have, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from posteriori.core.types import Finding

from .findings import NEVER_VARIES
from .sizes import LARGE_ERROR, RULE_OF_THREE, SAME

_JUMP, NEAR = 2.0, 1.0
"""Nats. Levels of evidence further apart than a factor of 7 are not found by steps; and who is
within a factor of 2.7 of the most evidence has been near it."""

_FEW_LEVELS = 3
"""Evidence with no more values than this is a grade, and what is another prompt's may be its."""

_GRADES, _TIGHT = 5, 0.1
"""So many values of the evidence of all prompts together are grades on one scale, as stars are; so
are clusters that are each narrower than a tenth of the least gap between them: a verdict with a
small reward of another kind beside it."""


def most_evidence(evidence: Sequence[Tensor], stated: float | None) -> list[float]:
    """The most log e that an outcome of each prompt may have, nats, as far as is known; -inf
    where nothing was seen of it. `evidence` are log e of each prompt's draws [n].

    That is what the target states (`Target.max_log_evidence`) where it states anything. Elsewhere
    it is what the prompt's own draws have shown; and where that is no more than three values, or
    all prompts are graded on one scale, it is what the draws of any prompt have shown.
    """
    own = [float(each.max()) if len(each) else -math.inf for each in evidence]
    if stated is not None:
        return [max(stated, each) for each in own]
    most = max(own)
    one_scale = len(evidence) > 1 and is_graded(torch.cat([each.cpu() for each in evidence]))
    return [
        most if one_scale or levels(each) <= _FEW_LEVELS else top
        for each, top in zip(evidence, own, strict=True)
    ]


def is_graded(log_evidence_n: Tensor) -> bool:
    """Whether the evidence has few values, or few tight clusters of them."""
    value_n = log_evidence_n.cpu().double().numpy()
    value_K = np.unique(np.rint(value_n[value_n > -math.inf] / SAME)) * SAME
    if len(value_K) <= _GRADES:
        return True
    gap_K = np.diff(value_K)
    for least in np.sort(gap_K)[:-_GRADES:-1].tolist():
        cut_K = gap_K >= least
        start_K, end_K = value_K[1:][cut_K], value_K[:-1][cut_K]
        width_K = np.append(end_K, value_K[-1]) - np.append(value_K[:1], start_K)
        if len(width_K) <= _GRADES and float(width_K.max()) <= _TIGHT * least:
            return True
    return False


def is_known(log_evidence_n: Tensor, stated: float | None) -> bool:
    """Whether the most evidence (`most_evidence`) is known, and no guess by what was seen: it is
    stated, or a grade of three values."""
    return stated is not None or levels(log_evidence_n) <= _FEW_LEVELS


def levels(log_evidence_n: Tensor) -> int:
    """How many values of the evidence draws have shown, beside what it rules out."""
    value_n = log_evidence_n.cpu().double().numpy()
    return len(set(np.rint(value_n[value_n > -math.inf] / SAME).tolist()))


def beyond(log_evidence_n: Tensor, most: float) -> bool:
    """Whether `most` is over a nat above all evidence that draws have shown.

    A policy or particles climb to rare evidence by steps: once they are near the most there is,
    draws of the prior that have not been there say nothing against them.
    """
    seen = float(log_evidence_n.max()) if len(log_evidence_n) else -math.inf
    return most - seen > NEAR


def jumps(log_evidence_n: Tensor, most: float) -> bool:
    """Whether the evidence of draws, and the `most` of it, has a gap of over 2 nats: what lies
    beyond is found by chance alone, by particles as by independent draws."""
    on_n = log_evidence_n[~log_evidence_n.isneginf()].cpu().double()
    if most > -math.inf:
        on_n = torch.cat([on_n, torch.tensor([most], dtype=torch.float64)])
    return len(on_n) > 1 and float(on_n.sort().values.diff().max()) > _JUMP


def rests_on(log_z: float, num_draws: int) -> Finding:
    """What log Z rests on where the target states no bound on its evidence: what n draws may have
    missed raises it by two large errors only from that much evidence on."""
    least = log_z + math.log(math.expm1(2 * LARGE_ERROR) * num_draws / RULE_OF_THREE)
    return Finding(
        "info",
        "no_bound_on_the_evidence",
        f"log_z rests on there being no outcome with a log-evidence above {least:.3g} that "
        f"{num_draws} draws have missed: the target states no largest one.",
        "State it where you know it: Reward(..., max_reward=...).",
    )


def never_varies(evidence: Sequence[Tensor], stated: float | None) -> Finding | None:
    """Draws of all prompts with one and the same evidence, with no known bound."""
    seen_N = torch.cat([each.cpu() for each in evidence]) if evidence else torch.zeros(0)
    if stated is not None or levels(seen_N) != 1 or bool(seen_N.isneginf().any()):
        return None
    return Finding(
        "warn",
        NEVER_VARIES,
        f"All {len(seen_N)} draws have the same log-evidence, {float(seen_N.max()):.4g}: log_z is "
        "right only if no outcome that they missed has more, and the target states no largest.",
        "Check that the reward works, or state its bound: Reward(..., max_reward=...).",
    )

"""The one rule for whether weighted draws can be trusted, and the words that say so.

k-hat (Vehtari et al. 2024, arXiv 1507.02646) is the shape of the tail of the weights. The larger it
is, the more of the sum rests on the few largest weights, and the more draws an average needs. It
cannot see what no draw has shown: that is what `missed` is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from scipy.special import chdtri  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from .numerics import FEWEST_FOR_A_TAIL, ess, pareto_k, reliable_k, t_factor
from .tensors import distinct_places
from .types import Estimate, Finding

LARGE_ERROR = 0.1
"""Standard error of log Z, nats, at which about a hundred draws of a prompt are effective."""

NEARLY_EQUAL = 0.5
"""Share of effective draws above which k-hat is not asked: it is the shape of the weights' tail
whatever their spread, and near the target they are all but equal."""

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

NO_WEIGHT = (
    f"fewer than {FEWEST_FOR_A_TAIL} draws of a prompt have any weight, too few to judge them"
)

RULE_OF_THREE = 3.0
"""What n independent draws have never shown has a probability of at most 3 / n, with a confidence
of 1 - e^-3 = 95%."""

NORMAL = 1.959963984540054
"""Standard errors on each side of a 95% interval."""

_SAME = 1e-4
"""Nats. Log-evidence closer than this is the same: rounding of float32 sums."""

_JUMP, _NEAR = 2.0, 1.0
"""Nats. Levels of evidence further apart than a factor of 7 are not found by steps; and who is
within a factor of 2.7 of the most evidence has been near it."""

_FEWEST_GROUPS, _FEWEST_EFFECTIVE = 8, 50.0
"""Populations that can tell how many draws theirs are worth, and how many these have to be: 16 that
are each a copy of one are worth 16, and by chance (15 degrees of freedom) seem 50 once in 100."""

_FEW_LEVELS = 3
"""Evidence with no more values than this is a grade, and what is another prompt's may be its."""

_GRADES, _TIGHT = 5, 0.1
"""So many values of the evidence of all prompts together are grades on one scale, as stars are; so
are clusters that are each narrower than a tenth of the least gap between them: a verdict with a
small reward of another kind beside it."""

_TIED = 10
"""Draws that share the largest weight and so make a level of it, and no tail."""


def fault(
    k: float,
    effective: float,
    num_draws: int,
    error: float,
    missed: float = 0.0,
    *,
    known: bool = False,
    populations: int = 0,
) -> str:
    """What is wrong with one prompt's weights, in words; empty if nothing is.

    They are trusted where

    at least 25 are above zero (k-hat is NaN else),
    k-hat <= min(1 - 1 / log10 n, 0.7)   or at least half of the draws are effective, or the largest
    weight that there can be is `known` and has a say in what may have been missed,
    and the standard error of log Z is at most 0.1 nats: that of the draws' own spread, and that by
    what they may have `missed`.

    `error` and `missed`, the part of it, are in nats; `effective` counts draws. An error over so
    many `populations` of particles has to be above 0.1 beyond chance: that of four is off by half.
    """
    if math.isnan(k):
        return NO_WEIGHT
    bounded = known and missed <= LARGE_ERROR
    if not bounded and heavy_tail(k, effective, num_draws):
        limit = reliable_k(num_draws)
        return f"pareto_k is {k:.2f} for a prompt's weights, above {limit:.2f}"
    if missed > LARGE_ERROR:
        return (
            f"what {num_draws} draws of a prompt may have missed (3/n of the probability, at the "
            f"most evidence there may be) would raise log_z by {NORMAL * missed:.2g} nats"
        )
    own = math.sqrt(max(0.0, error**2 - missed**2)) if math.isfinite(error) else error
    if own <= LARGE_ERROR * (_by_chance(populations - 1) if populations > 1 else 1.0):
        return ""
    return large(own)


def large(error: float) -> str:
    """The words for a standard error of log Z, nats, above `LARGE_ERROR`."""
    return (
        f"the standard error of log_z is {error:.2g} nats, that of under a hundred effective draws"
    )


@lru_cache(maxsize=256)
def _by_chance(degrees_of_freedom: int) -> float:
    """By how much more than itself an error of so many degrees of freedom is once in ten times:
    1.44 of four values, 1.22 of sixteen."""
    return math.sqrt(float(chdtri(degrees_of_freedom, 0.1)) / degrees_of_freedom)


def heavy_tail(k: float, effective: float, num_draws: int) -> bool:
    """Whether k-hat is above its limit, min(1 - 1 / log10 n, 0.7), where it is asked at all."""
    return k > reliable_k(num_draws) and effective < NEARLY_EQUAL * num_draws


def fault_of(
    log_w_n: Tensor,
    log_z: Estimate,
    k: float | None = None,
    missed: float = 0.0,
    *,
    known: bool = False,
    populations: int = 0,
) -> str:
    """`fault` of one prompt's log-weights [n] and their log Z; k-hat where it is known already.

    The error is judged without what Student's t adds to it: few values make a wide interval, which
    is right, and no sign of anything.
    """
    if int((log_w_n > -math.inf).sum()) < FEWEST_FOR_A_TAIL:
        return NO_WEIGHT
    effective = float(ess(log_w_n))
    if k is None:
        nearly_equal = effective >= NEARLY_EQUAL * len(log_w_n)
        k = -math.inf if nearly_equal else pareto_k(log_w_n)
    error = log_z.standard_error
    if math.isfinite(error) and error > missed:
        own = math.sqrt(error**2 - missed**2) / t_factor(log_z.degrees_of_freedom)
        error = math.hypot(own, missed)
    return fault(k, effective, len(log_w_n), error, missed, known=known, populations=populations)


def share_the_largest(log_w_n: Tensor) -> bool:
    """Whether ten draws and more have the largest weight. k-hat is of a tail: where the most
    evidence is known besides, the weights end at that level, and not in one."""
    return int((log_w_n >= log_w_n.max() - _SAME).sum()) >= _TIED


def fault_of_groups(log_w_n: Tensor, value_n: Tensor, group_n: Tensor) -> str:
    """What is wrong with populations of particles (islands) that are each copies of a few.

    The error of E_p*[f] over the groups against what it were for independent draws says how many
    draws they are worth. Of fewer than eight groups that is no more than noise; f is `value_n`.
    """
    names, row_n = distinct_places(group_n)
    groups, num = len(names), len(log_w_n)
    if groups < _FEWEST_GROUPS or groups == num:
        return ""
    share_n = log_w_n.softmax(0)
    on_n = share_n > 0
    off_n = torch.where(on_n, share_n * (value_n - float(share_n[on_n] @ value_n[on_n])), 0.0)
    off_G = torch.zeros(groups, dtype=torch.float64).index_add(0, row_n, off_n)
    alone, together = float(off_n.square().sum()), float(off_G.square().sum())
    least = min(_FEWEST_EFFECTIVE, 0.5 * num)
    if not alone * num < least * together:
        return ""
    return (
        f"the {num} draws of a prompt are worth {num * alone / together:.0f}: each of {groups} "
        "populations has copies of a few"
    )


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


def missed(log_z: float, log_max_weight: float, num_draws: int) -> float:
    """The standard error of log Z, nats, by what n independent draws may have missed:

        log(1 + 3 max(1, w_max / Z-hat) / n) / 1.96

    With a confidence of 95% what no draw has shown has a probability of at most 3/n, so that Z is
    at most Z-hat + 3/n w_max, and 1.96 of these errors reach it. Outcomes of no weight can be
    missed likewise: draws that all weigh the same never have an error of 0. That so much is missed
    that Z-hat is off by over five errors has a chance of at most e^-7.
    """
    if log_z == -math.inf or num_draws < 1:
        return math.inf
    log_x = math.log(RULE_OF_THREE / num_draws) + max(0.0, log_max_weight - log_z)
    return (log_x if log_x > 30 else math.log1p(math.exp(log_x))) / NORMAL


def missed_of_mean(values_n: Tensor, farthest: float, least: float = 0.0) -> float:
    """The same for the mean of n values: 3/n of the probability at `farthest`, or as far from the
    mean as the farthest value that was seen, and no nearer than `least`. 0 for infinite means: what
    was seen is certain."""
    value_n = values_n.cpu().double().numpy()
    mean = float(value_n.sum()) / len(value_n)
    away = max(least, float(value_n.max()) - mean, mean - float(value_n.min()))
    if math.isfinite(farthest):
        away = max(away, abs(farthest - mean))
    if not math.isfinite(away):
        return 0.0
    return RULE_OF_THREE * away / len(values_n) / NORMAL


def left_out(values_n: Tensor, others_m: Tensor, log_ratio_m: Tensor) -> float:
    """The error of the mean of a policy's n values by what draws of the prior show and they do not:

        (1/m) sum_j min(3, pi/prior) |f_j - mean| / 1.96,   j with f_j beyond all of the n,

    which is how much of the policy's own mean such outcomes make. `others_m` are f of the prior's
    draws, `log_ratio_m` their log pi/prior; one draw stands for no more than the rule of three
    leaves.
    """
    # The same outcome, scored in another batch, is off by rounding and not beyond itself.
    beyond_m = (others_m > values_n.max() + _SAME) | (others_m < values_n.min() - _SAME)
    beyond_m = beyond_m & others_m.isfinite()
    if not bool(beyond_m.any()):
        return 0.0
    weight_m = log_ratio_m[beyond_m].clamp(max=math.log(RULE_OF_THREE)).exp()
    away_m = (others_m[beyond_m] - values_n.mean()).abs()
    return float((weight_m * away_m).sum()) / len(others_m) / NORMAL


SURPRISE = 1.0
"""Nats. By so much at least outcomes that were not drawn may be more surprising than all that were:
draws that are all as probable as each other do not show that the others are too."""


def rarest(surprise_n: Tensor, lifted: float = 0.0) -> float:
    """-log of the probability of what n draws may have missed, log(n / 3), and of more by `lifted`
    nats; NaN where their own `surprise_n` = -log p are as large as that."""
    least = math.log(max(1.0, len(surprise_n) / RULE_OF_THREE)) + lifted
    return least if least > float(surprise_n.mean()) else math.nan


def most_evidence(evidence: Sequence[Tensor], stated: float | None) -> list[float]:
    """The most log e that an outcome of each prompt may have, nats, as far as anybody knows; -inf
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
    value_K = np.unique(np.rint(value_n[value_n > -math.inf] / _SAME)) * _SAME
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
    return len(set(np.rint(value_n[value_n > -math.inf] / _SAME).tolist()))


def beyond(log_evidence_n: Tensor, most: float) -> bool:
    """Whether `most` is over a nat above all evidence that draws have shown.

    A policy or particles climb to rare evidence by steps: once they are near the most there is,
    draws of the prior that have not been there say nothing against them.
    """
    seen = float(log_evidence_n.max()) if len(log_evidence_n) else -math.inf
    return most - seen > _NEAR


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
    """Draws of all prompts with one and the same evidence, of which nobody knows a bound."""
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

"""The verdict: one sentence, computed from the figures, that a person could act on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from posteriori.core.reliability import NOT_TRUSTED
from posteriori.report.result import PolicyResult
from posteriori.report.safe_text import number, one_line, with_error

MANY = 4
"""From this many policies on the sentence names the collapsed ones and the nearest, not each."""


def verdict(
    results: Sequence[PolicyResult],
    prior: PolicyResult | None = None,
    samplers: Sequence[PolicyResult] = (),
) -> str:
    """Who collapsed, and how far each of the others is from its posterior. Of samplers, where there
    is no policy, what their draws gain and pay.

    `rl collapsed: 3% distinct completions; rloo (beta 0.1) is 0.42 ± 0.05 nats from its posterior.`
    """
    if not results:
        if samplers:
            drew = "; ".join(map(_drew, samplers))
            return f"{drew[0].upper()}{drew[1:]}."
        if prior is None:
            return "No policy was evaluated."
        return f"No policy was evaluated; the prior {_distance(prior)}."
    if len(results) >= MANY:
        return _summary(results)
    return "; ".join(f"{one_line(each.name)} {_clause(each, prior)}" for each in results) + "."


def collapsed(result: PolicyResult) -> bool:
    return any(finding.name == "collapsed" for finding in result.findings)


def _clause(result: PolicyResult, prior: PolicyResult | None) -> str:
    if not collapsed(result):
        return _distance(result)
    clause = f"collapsed: {_share(result)} distinct completions"
    if prior is not None and "unique_fraction" in prior.figures:
        clause += f" (the prior has {_share(prior)})"
    return clause


def _drew(sampler: PolicyResult) -> str:
    reward, paid = (sampler.figures.get(key) for key in ("mean_reward", "kl_to_prior"))
    gained = (
        "an unknown mean reward" if reward is None else f"a mean reward of {with_error(reward)}"
    )
    spent = "an unknown KL" if paid is None else f"a KL of {with_error(paid)} nats"
    return f"the draws of {one_line(sampler.name)} have {gained} at {spent} from the prior"


def _distance(result: PolicyResult) -> str:
    if not result.evaluated:
        if any(each.name == "finished_not_evaluated" for each in result.findings):
            return "has not been evaluated, though its run is finished"
        return "has not been evaluated: its run was stopped, or is under way"
    kl = result.figures.get("kl_to_target")
    if kl is None or math.isnan(kl.value) or kl.value == -math.inf:
        return "is at an unknown distance from its posterior"
    if kl.value == math.inf:
        return "is infinitely far from its posterior: it writes what the evidence rules out"
    trusted = all(f.name != NOT_TRUSTED for f in result.findings)
    about = "" if trusted else "probably more than "
    return f"is {about}{with_error(kl)} nats from its posterior{_wasted(result)}"


def _wasted(result: PolicyResult) -> str:
    """Of what it spent, the part that bought nothing, or that it is none as far as is known."""
    paid, wasted = result.figures.get("kl_to_prior"), result.figures.get("wasted_nats")
    if paid is None or wasted is None or not math.isfinite(paid.value + wasted.value):
        return ""
    if wasted.value <= 2 * wasted.standard_error:
        return f" and wasted none of the {number(paid.value)} it spent, as far as can be estimated"
    return f" and wasted {with_error(wasted)} of the {number(paid.value)} it spent"


def _summary(results: Sequence[PolicyResult]) -> str:
    clauses = []
    fallen = [r for r in results if collapsed(r)]
    if fallen:
        names = ", ".join(f"{one_line(r.name)}: {_share(r)}" for r in fallen[:MANY])
        more = f" and {len(fallen) - MANY} more" if len(fallen) > MANY else ""
        clauses.append(
            f"{len(fallen)} of {len(results)} policies collapsed (distinct completions: "
            f"{names}{more})"
        )
    known = [r for r in results if not collapsed(r) and math.isfinite(_kl(r))]
    if known:
        nearest = min(known, key=_kl)
        clauses.append(f"the nearest, {one_line(nearest.name)}, {_distance(nearest)}")
    elif len(fallen) < len(results):
        clauses.append("no other policy is at a finite, known distance from its posterior")
    sentence = "; ".join(clauses) + "."
    return sentence[0].upper() + sentence[1:]


def _kl(result: PolicyResult) -> float:
    kl = result.figures.get("kl_to_target")
    return math.nan if kl is None else kl.value


def _share(result: PolicyResult) -> str:
    unique = result.figures.get("unique_fraction")
    if unique is None or not math.isfinite(unique.value):
        return "unknown"
    return f"{number(100 * unique.value, 2)}%"

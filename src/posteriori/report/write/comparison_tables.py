"""The tables: figures side by side, prompt by prompt, and what everything cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posteriori.core.types import Estimate
from posteriori.report.asked import MEAN_OF
from posteriori.report.draw.curves import to_float
from posteriori.report.draw.passes import AT_K, k_of
from posteriori.report.draw.plane import on_plane, why_not
from posteriori.report.result import PolicyResult, Subject
from posteriori.report.safe_text import number, one_line, prompt_label, seconds, visible, with_error

LEVELS = ("stop", "warn", "info")


@dataclass(frozen=True)
class Meaning:
    """How a figure is shown: its name, its unit, and what it says in a few words."""

    name: str
    unit: str
    says: str
    percent: bool = False


MEANINGS = {
    "kl_to_target": Meaning("KL to the target", "nats", "distance from the posterior; 0 is there"),
    "entropy": Meaning("Entropy", "nats", "how varied its completions are"),
    "unique_fraction": Meaning(
        "Distinct completions", "of its draws", "low: it repeats itself", percent=True
    ),
    "distinct_2": Meaning("Distinct token pairs", "of all its pairs", "", percent=True),
    "mean_reward": Meaning("Mean reward", "reward", "what it gained"),
    "kl_to_prior": Meaning("KL to the prior", "nats", "what it paid for that"),
    "wasted_nats": Meaning("Wasted nats", "nats", "what it paid and got no reward for"),
    "effective_beta": Meaning("Effective beta", "", "the posterior that it is nearest to"),
    "mean_log_evidence": Meaning("Mean log-evidence", "nats", "its KL to the prior, plus log Z"),
    "elbo": Meaning("ELBO", "nats", "rises to log Z as the distance goes to 0"),
    "log_z": Meaning("log Z of its target", "nats", "how well the prior fits the evidence"),
    "kl_from_target": Meaning("KL from the target", "nats", "high: it misses what the target has"),
    "eubo": Meaning("EUBO", "nats", "log Z and the KL from the target, together"),
    "tv": Meaning("Total variation from the target", "", "0 is there, 1 is disjoint"),
    "js": Meaning("Jensen-Shannon from the target", "nats", "0 is there, 0.69 is disjoint"),
    "log_z_upper": Meaning("log Z, upper bound", "nats", "by exact draws of the target"),
    "target_entropy": Meaning("Entropy of the target", "nats", ""),
    "self_bleu": Meaning("Self-BLEU", "", "high: its completions are alike"),
    "perplexity": Meaning("Perplexity under the prior", "per token", ""),
    "truncated": Meaning("Cut off", "of its draws", "at max_new_tokens", percent=True),
    **{
        f"reward_q{q:02}": Meaning(f"Reward, {q}% quantile", "reward", "")
        for q in (5, 25, 50, 75, 95)
    },
    "accuracy_held_out": Meaning(
        "Held-out pairs ordered as labelled", "of the pairs", "a half is chance", percent=True
    ),
    "accuracy_trained_on": Meaning(
        "Pairs it was trained on ordered as labelled",
        "of the pairs",
        "a half is chance",
        percent=True,
    ),
    "loss_held_out": Meaning("Loss of held-out pairs", "nats", "0.693 is that of the prior"),
    "loss_trained_on": Meaning("Loss of pairs it was trained on", "nats", ""),
    "acceptance": Meaning("Accepted moves", "of its proposals", "", percent=True),
    "r_hat": Meaning("R-hat", "", "1 once its chains agree"),
    "ess": Meaning("Effective draws", "draws", "what its draws are worth in draws of the target"),
    "pareto_k": Meaning("Pareto k of the weights", "", "above 0.7, do not trust log Z and KL"),
}

KINDS = {
    "exact": "no sampling error",
    "unbiased": "right on average, at any number of draws",
    "consistent": "its bias vanishes as the draws grow in number",
    "lower_bound": "on average below the true value",
    "upper_bound": "on average above the true value",
    "heuristic": "a description of these draws, without a guarantee",
}


def comparison(policies: Sequence[PolicyResult]) -> list[dict[str, Any]]:
    """One row per figure and one cell per policy. Figures that have no entry above come last."""
    present = {key for policy in policies for key in policy.figures}
    known = [k for k in MEANINGS if k in present]
    passes = sorted((k for k in present if k.startswith(AT_K)), key=k_of)
    keys = [*known[:1], *passes, *known[1:], *sorted(present - set(MEANINGS) - set(passes))]
    return [_row(key, [policy.figures.get(key) for policy in policies]) for key in keys]


def _row(key: str, estimates: Sequence[Estimate | None]) -> dict[str, Any]:
    meaning = MEANINGS.get(key, Meaning(key.replace("_", " ").capitalize(), "", ""))
    if key.startswith(AT_K):
        k = key.removeprefix(AT_K)
        says = "correct at the first try" if k == "1" else f"one of {k} draws is correct"
        meaning = Meaning(key, "", says, percent=True)
    if key.startswith(MEAN_OF):
        meaning = Meaning(one_line(key, 200), "", "of the feature, as the moments define it")
    kinds = [e.kind for e in estimates if e is not None]
    usual = max(kinds, key=kinds.count)
    cells = [
        {
            "value": "not measured" if e is None else with_error(e, percent=meaning.percent),
            "kind": "" if e is None or e.kind == usual else e.kind.replace("_", " "),
        }
        for e in estimates
    ]
    return {
        "meaning": meaning,
        "kind": usual.replace("_", " "),
        "kind_says": KINDS.get(usual, ""),
        "cells": cells,
    }


def by_prompt(
    policies: Sequence[PolicyResult], subject: Subject, most: int = 100
) -> list[dict[str, Any]]:
    """KL to the target prompt by prompt, the worst first, for at most `most` prompts."""
    columns = [_per_prompt(policy, subject.num_prompts) for policy in policies]
    if subject.num_prompts < 2 or not any(columns):
        return []
    rows = []
    for index in range(subject.num_prompts):
        prompt = subject.prompts.get(index, f"prompt {index + 1}")
        cells = [column[index] if column else None for column in columns]
        known = [e.value for e in cells if e is not None and not math.isnan(e.value)]
        shown = [{"value": "not measured" if e is None else with_error(e)} for e in cells]
        rows.append((max(known, default=math.inf), prompt_label(prompt, 120), shown))
    rows.sort(key=lambda row: -row[0])
    return [{"prompt": prompt, "cells": cells} for _, prompt, cells in rows[:most]]


def _per_prompt(policy: PolicyResult, num_prompts: int) -> tuple[Estimate, ...]:
    kl = policy.figures.get("kl_to_target")
    return kl.per_prompt if kl is not None and len(kl.per_prompt) == num_prompts else ()


def costs(policies: Sequence[PolicyResult]) -> list[dict[str, str]]:
    """Training, summed over the history, and evaluation, for each policy."""
    return [
        {
            "name": one_line(policy.name),
            "steps": f"{len(policy.history):,}",
            "draws": _total(policy, "draws"),
            "tokens": _total(policy, "lm_tokens"),
            "seconds": _seconds(policy),
            "eval_draws": f"{policy.num_draws:,}",
            "eval_tokens": f"{policy.cost.lm_tokens:,}",
            "eval_calls": f"{policy.cost.evidence_calls:,}",
            "eval_seconds": seconds(policy.cost.seconds),
        }
        for policy in policies
    ]


def samplers(results: Sequence[PolicyResult]) -> list[dict[str, str]]:
    """Each sampler's guarantee, settings and place in the plane, or why it has none."""
    rows = []
    for each in results:
        assert each.sampler is not None
        placed = on_plane(each)
        found = {key: each.figures.get(key) for key in ("kl_to_prior", "mean_reward")}
        rows.append(
            {
                "name": one_line(each.name),
                "guarantee": each.sampler.guarantee.replace("_", " "),
                "made_by": one_line(each.sampler.made_by, 200),
                **{key: "unknown" if e is None else with_error(e) for key, e in found.items()},
                "place": "in the plane" if placed else f"not in the plane, for {why_not(each)}",
            }
        )
    return rows


def _sum(policy: PolicyResult, key: str) -> float:
    values = [to_float(record[key]) for record in policy.history if key in record]
    return math.fsum(values) if values and all(map(math.isfinite, values)) else math.nan


def _total(policy: PolicyResult, key: str) -> str:
    if not policy.history:
        return "0"
    total = _sum(policy, key)
    return f"{total:,.0f}" if math.isfinite(total) else number(total)


def _seconds(policy: PolicyResult) -> str:
    return seconds(_sum(policy, "seconds")) if policy.history else seconds(0.0)


def findings(subject: Subject) -> list[dict[str, str]]:
    """All findings with their policy's name, the gravest first."""
    found = [
        {
            "policy": one_line(result.name),
            "level": finding.level,
            "message": visible(finding.message),
            "hint": visible(finding.hint),
        }
        for result in subject.everyone
        for finding in result.findings
    ]
    if subject.curve is not None:
        found += [
            {
                "policy": "frontier",
                "level": finding.level,
                "message": visible(finding.message),
                "hint": visible(finding.hint),
            }
            for finding in subject.curve.findings
        ]
    return sorted(found, key=lambda each: LEVELS.index(each["level"]))

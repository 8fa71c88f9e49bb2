"""What was asked for besides a reward, and whether it was had: wanted means, preference pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from posteriori.cli.console.report_table import MAIN, ROWS, estimate_json, finding_json, shown

if TYPE_CHECKING:
    from posteriori.config.check import Plan
    from posteriori.core.protocols import LanguageModel
    from posteriori.core.target import Target
    from posteriori.core.types import Completions, Draws, Estimate
    from posteriori.diagnostics.evaluate.evaluate import Report
    from posteriori.moments.moments import Moments
    from posteriori.train.monitor.pair_metrics import PairFigures

AGAINST_TARGET = frozenset(
    (
        *("kl_to_target", "kl_from_target", "wasted_nats", "effective_beta", "target_entropy"),
        *("ess", "pareto_k", "elbo", "eubo", "log_z", "log_z_upper", "tv", "js"),
    )
)
"""Figures that say nothing where the target is the prior itself, without evidence."""


def moments_json(target: Target, had: Mapping[str, Draws | Completions]) -> dict[str, Any]:
    """The target's wanted means by name, each with its lambda and what was attained by whom; empty
    for a target without `Moments`. Weighted draws stand for the target, completions for what drew
    them."""
    found: dict[str, Any] = {}
    for moments in _moments(target):
        attained = {who: moments.attained(draws) for who, draws in had.items()}
        for name, wanted in moments.wanted.items():
            found[name] = {
                "wanted": wanted,
                "lambda": estimate_json(moments.fitted.lambda_[name]),
                "attained": {who: estimate_json(means[name]) for who, means in attained.items()},
            }
    return found


def moments_lines(target: Target, had: Mapping[str, Draws | Completions]) -> list[str]:
    """The same in words, a line a moment."""
    lines = []
    for moments in _moments(target):
        attained = {who: moments.attained(draws) for who, draws in had.items()}
        for name, wanted in moments.wanted.items():
            means = ", ".join(f"{who} {shown(each[name])}" for who, each in attained.items())
            lines.append(
                f"mean of '{name}': {wanted:g} wanted, lambda {shown(moments.fitted.lambda_[name])}"
                f"; attained: {means}"
            )
    return lines


def _moments(target: Target) -> list[Moments]:
    from posteriori.moments.moments import Moments

    return [each for each in target.evidence if isinstance(each, Moments)]


def pairs_of(
    plan: Plan, target: Target, models: Mapping[str, LanguageModel]
) -> dict[str, PairFigures]:
    """How each model orders the preference pairs that the plan's objective is trained on; empty
    where it is trained on none."""
    from posteriori.core.seeds import derive
    from posteriori.objectives.preference.pairs import Pairs
    from posteriori.train.monitor.pair_metrics import pair_figures

    fit, objective = plan.config.fit, plan.objective
    if fit is None or objective is None or not objective.table.get("pairs"):
        return {}
    made = objective.make()
    if not isinstance(made, Pairs):
        return {}
    # The seed of the run, so that the pairs which it held out are these.
    made.prepare(target, _no_policy, derive(fit.seed, "objective"))
    found = {name: pair_figures(target, made, model) for name, model in models.items()}
    return {name: each for name, each in found.items() if each is not None}


def _no_policy() -> Any:
    raise AssertionError("pairs need no other policy")


def asked_of(
    target: Target, reports: Mapping[str, Report], pairs: Mapping[str, PairFigures]
) -> tuple[dict[str, Any], list[str]]:
    """What an evaluation says of it, for JSON and in lines."""
    from posteriori.runs.directory import jsonable

    had = {name: report.draws.completions for name, report in reports.items()}
    moments = moments_json(target, had)
    found = {"moments": moments} if moments else {}
    lines = moments_lines(target, had)
    if pairs:
        found["pairs"] = pairs_json(pairs)
        lines += pairs_lines(pairs)
        if not target.evidence:
            lines.append(
                "The target has no evidence: it is the prior, so the pairs judge the policies, and "
                "what would relate them to a target is left out."
            )
    return jsonable(found), lines


def pairs_json(pairs: Mapping[str, PairFigures]) -> dict[str, Any]:
    first = next(iter(pairs.values()))
    return {
        "held_out": first.held_out,
        "num_pairs": first.num_pairs,
        "num_prompts": first.num_prompts,
        "policies": {
            name: {
                "accuracy": estimate_json(each.accuracy),
                "loss": estimate_json(each.loss),
                "margin": estimate_json(each.margin),
                "findings": [finding_json(found) for found in each.findings],
            }
            for name, each in pairs.items()
        },
    }


def pairs_lines(pairs: Mapping[str, PairFigures]) -> list[str]:
    """How many pairs each policy orders as people did, and whether that says anything."""
    lines = []
    for name, each in pairs.items():
        which = "held-out pairs" if each.held_out else "pairs that it was trained on"
        lines.append(
            f"{name}: orders {_percent(each.accuracy)} of {each.num_pairs} {which} "
            f"({each.num_prompts} prompts) as their labels do, and 50% is chance; loss "
            f"{shown(each.loss)} nats, and {math.log(2):.3f} is that of the prior"
        )
    return lines


def rows_without_target(every_figure: bool) -> list[str]:
    """A table's figures where the target is the prior and pairs were asked for: KL "to the target"
    would be the distance from the prior, and read as harm."""
    return [name for name in (ROWS if every_figure else MAIN) if name not in AGAINST_TARGET]


def _percent(estimate: Estimate) -> str:
    return shown(estimate, "accuracy_fraction")

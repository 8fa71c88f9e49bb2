"""What was asked for besides a reward, and whether it was had: wanted means, preference pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posteriori.cli.console.report_table import MAIN, ROWS, shown

if TYPE_CHECKING:
    from posteriori.config.check import Plan
    from posteriori.core.protocols import LanguageModel, WantedMean
    from posteriori.core.target import Target
    from posteriori.core.types import Estimate
    from posteriori.diagnostics.evaluate.evaluate import Report
    from posteriori.train.monitor.pair_metrics import PairFigures


def moments_lines(had: Mapping[str, Sequence[WantedMean]]) -> list[str]:
    """What was attained of the wanted means by whom, a line a mean."""
    lines = []
    for of_one in zip(*had.values(), strict=True):
        means = ", ".join(
            f"{who} {shown(mean.attained)}" for who, mean in zip(had, of_one, strict=True)
        )
        first = of_one[0]
        lines.append(
            f"mean of '{first.name}': {first.wanted:g} wanted, lambda {shown(first.lambda_)}"
            f"; attained: {means}"
        )
    return lines


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


def asked_lines(reports: Mapping[str, Report]) -> list[str]:
    """What an evaluation says of it, in lines."""
    lines = moments_lines({name: report.means for name, report in reports.items()})
    pairs = {name: each.pairs for name, each in reports.items() if each.pairs is not None}
    lines += pairs_lines(pairs)
    lines += [
        f"{name}: {', '.join(f'{k} {_percent(found)}' for k, found in each.passes.items())}"
        for name, each in reports.items()
        if each.passes
    ]
    if pairs and not all(report.against_target for report in reports.values()):
        lines.append(
            "The target has no evidence: it is the prior, so the pairs judge the policies, and "
            "what would relate them to a target is left out."
        )
    return lines


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
    from posteriori.report.asked import AGAINST_TARGET

    return [name for name in (ROWS if every_figure else MAIN) if name not in AGAINST_TARGET]


def _percent(estimate: Estimate) -> str:
    return shown(estimate, "accuracy_fraction")

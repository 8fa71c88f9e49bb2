"""What was asked for besides a reward, for evaluation.json: wanted means, preference pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posteriori.core.protocols import WantedMean
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.runs.directory import estimate_json, finding_json
from posteriori.train.monitor.pair_metrics import PairFigures


def moments_json(had: Mapping[str, Sequence[WantedMean]]) -> dict[str, Any]:
    """The wanted means by name, each with its lambda and what was attained by whom."""
    found: dict[str, Any] = {}
    for who, means in had.items():
        for mean in means:
            entry = {"wanted": mean.wanted, "lambda": estimate_json(mean.lambda_), "attained": {}}
            found.setdefault(mean.name, entry)["attained"][who] = estimate_json(mean.attained)
    return found


def pairs_json(pairs: Mapping[str, PairFigures]) -> dict[str, Any]:
    """How each policy orders the pairs; there has to be one."""
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


def asked_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """`moments` and `pairs` where there are any, and that the target is the prior where it is."""
    entry: dict[str, Any] = {}
    moments = moments_json({name: report.means for name, report in reports.items()})
    if moments:
        entry["moments"] = moments
    pairs = {name: each.pairs for name, each in reports.items() if each.pairs is not None}
    if pairs:
        entry["pairs"] = pairs_json(pairs)
    if not all(report.against_target for report in reports.values()):
        entry["against_target"] = False
    return entry

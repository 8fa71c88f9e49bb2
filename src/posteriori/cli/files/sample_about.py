"""What stands beside a file of draws: what drew them, of which target, and what they are worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.config.check import Plan
from posteriori.config.run_config import SampleSettings

if TYPE_CHECKING:
    from posteriori.core.target import Target
    from posteriori.core.types import Draws
    from posteriori.samplers.base import Sampler


def write_about(
    path: Path,
    config: Mapping[str, Any],
    settings: SampleSettings,
    made: Sampler,
    target: Target,
    draws: Draws,
) -> Path:
    """Write DRAWS.json beside the file of draws at `path`, whole or not at all; returns its path.

    `config` says of the target what a run's config.json does. The draws must be there: their hash
    goes into it, so that it is not mistaken for that of other draws.
    """
    from posteriori.diagnostics.frontier.sampler_points import sampled
    from posteriori.report.read.draws import about_path
    from posteriori.report.write.asked_json import moments_json
    from posteriori.runs.directory import (
        estimate_json,
        finding_json,
        jsonable,
        versions,
        write_whole,
    )

    placed = sampled(target, draws, of_target=made.of_target)
    record = {
        "sampler": made.name,
        "settings": _plain(made) | settings.settings,
        "proposal": settings.proposal,
        "num_samples": settings.num_samples,
        "seed": settings.seed,
        "guarantee": draws.guarantee or made.guarantee,
        "of_target": made.of_target and draws.guarantee != "heuristic",
        "config": config,
        "num_prompts": len(target.prompts),
        "num_draws": len(draws),
        "draws_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "figures": {name: estimate_json(each) for name, each in placed.figures.items()},
        "why_no_kl": placed.why,
        "moments": moments_json({"draws": target.means_met(draws)}),
        "findings": [finding_json(finding) for finding in draws.findings],
        "cost": vars(draws.cost),
        "versions": versions(),
    }
    beside = about_path(path)
    write_whole(beside, json.dumps(jsonable(record), indent=2, allow_nan=False) + "\n")
    return beside


def config_of(plan: Plan) -> dict[str, Any]:
    """The target's, and the beta that a run's budget has found for it."""
    from posteriori.config.target import about
    from posteriori.train.budget import recorded_budget

    if plan.budget is None or plan.output_dir is None:
        return about(plan)
    budget = recorded_budget(plan.output_dir)
    return about(plan) | ({} if budget is None else {"budget": asdict(budget)})


def _plain(made: Sampler) -> dict[str, Any]:
    """The settings that were left at their defaults too, but for those that are objects."""
    return {k: v for k, v in made.settings if isinstance(v, bool | int | float | str)}

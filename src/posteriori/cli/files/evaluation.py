"""Policies evaluated against a target, one after another, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.cli.console.output import json_text, print_json, stdout, visible
from posteriori.cli.console.progress_bar import count_progress
from posteriori.cli.console.report_table import (
    MAIN,
    must_stop,
    print_findings,
    print_intervals,
    print_table,
)
from posteriori.core.settings.ray import RayConfig
from posteriori.core.settings.training import MAX_PROMPTS
from posteriori.core.settings.until import MAX_SAMPLES, Until

from .goals import rows_without_target

if TYPE_CHECKING:
    from posteriori.core.protocols import LanguageModel
    from posteriori.core.target import Target
    from posteriori.diagnostics.evaluate.evaluate import Report


def judge(
    target: Target,
    models: Mapping[str, LanguageModel],
    *,
    num_samples: int,
    posterior: int,
    seed: int,
    quiet: bool,
    max_prompts: int = MAX_PROMPTS,
    until: Until | None = None,
    max_samples: int = MAX_SAMPLES,
    ray: RayConfig | None = None,
) -> dict[str, Report]:
    """A report per model, in their order; with `posterior` exact draws per prompt, bounds as
    well; with `until` each has as many draws as that takes. All of it by the same actors,
    where there is `ray`."""
    from posteriori.core.processes.ray_actors import spread

    with spread(ray, seed):
        return _reports(
            target,
            models,
            num_samples,
            posterior,
            seed,
            max_prompts,
            until,
            max_samples,
            quiet=quiet,
        )


def _reports(
    target: Target,
    models: Mapping[str, LanguageModel],
    num_samples: int,
    posterior: int,
    seed: int,
    max_prompts: int,
    until: Until | None,
    max_samples: int,
    *,
    quiet: bool,
) -> dict[str, Report]:
    from posteriori.core.draw import draw
    from posteriori.core.seeds import generator
    from posteriori.diagnostics.evaluate.evaluate import evaluate
    from posteriori.diagnostics.prompt_sample import sampled_prompts
    from posteriori.samplers.sample import sample

    some = sampled_prompts(target, max_prompts, seed)
    exact = None
    if posterior:
        with count_progress("exact draws", quiet=quiet) as on_progress:
            exact = sample(some, "rejection", posterior, seed=seed, on_progress=on_progress)
    reports = {}
    of_prior = None
    several = sum(model is not target.prior for model in models.values()) > 1
    if several and until is None:
        # Those that `evaluate` would make for each policy anew.
        with count_progress("drawing from the prior", quiet=quiet) as on_progress:
            seeded = generator(seed, "evaluate", "prior")
            of_prior = draw(some, target.prior, num_samples, seeded, on_progress=on_progress)
    for name, model in models.items():
        with count_progress(f"evaluating {name}", quiet=quiet) as on_progress:
            reports[name] = evaluate(
                target,
                model,
                num_samples,
                seed,
                exact,
                max_prompts=max_prompts,
                prior_draws=of_prior,
                until=until,
                max_samples=max_samples,
                on_progress=on_progress,
            )
    return reports


def evaluation_json(reports: Mapping[str, Report], **about: Any) -> dict[str, Any]:
    """What `evaluation.json` and `--json` hold."""
    from posteriori.report.write.evaluation_files import evaluation_json as as_json

    return as_json(reports, **about)


def show(
    reports: Mapping[str, Report],
    evaluation: Mapping[str, Any],
    *,
    title: str,
    as_json: bool,
    every_figure: bool = False,
    lines: Sequence[str] = (),
    against_target: bool = True,
) -> int:
    """Print the table, `lines` and the findings, or the JSON; returns the command's exit code.
    Without `against_target` the table leaves out what relates a policy to the target."""
    if as_json:
        print_json(evaluation)
    else:
        console = stdout()
        rows = None if every_figure else MAIN
        if not against_target:
            rows = rows_without_target(every_figure)
        print_table(console, reports, title=title, rows=rows)
        for line in lines:
            console.print(visible(line), soft_wrap=True)
        print_intervals(console, reports)
        print_findings(console, reports)
    return 1 if must_stop(reports) else 0


def write_evaluation(path: Path, evaluation: Mapping[str, Any]) -> None:
    from posteriori.runs.directory import write_whole

    write_whole(path, json_text(evaluation, indent=2) + "\n")

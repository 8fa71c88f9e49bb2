"""`report`: the page from Python objects and run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.diagnostics.frontier.curve import Frontier
from posteriori.errors import ConfigError
from posteriori.report.read.gather import PRIOR, gather
from posteriori.report.write.page import write_report
from posteriori.train.fit_result import Fit

from .result import Curve, PolicyResult, Subject


def report(
    *given: Any, path: str | Path = "report.html", title: str = "", **reports: Report
) -> Path:
    """Write one HTML page on evaluations, runs and a frontier.

    Args:
        given: folders of runs and files of draws (`posteriori sample`), a `Fit` with an
            output_dir, a `Frontier`, mappings of names to reports.
        path: where the page goes.
        title: its title.
        reports: evaluations by name, `report(prior=..., mine=...)`; "prior" is the prior's.

    Returns:
        The page's path.

    Raises:
        ConfigError: for nothing, or an object that a page cannot show.
        CheckpointError: for a folder that holds no run.

    Example:
        >>> page = po.report(prior=po.evaluate(target, prior), mine=po.evaluate(target, fit.policy))
    """
    folders: list[Path] = []
    named: dict[str, Report] = dict(reports)
    curve = None
    for each in given:
        if isinstance(each, str | Path):
            folders.append(Path(each))
        elif isinstance(each, Frontier):
            curve = Curve(each.points, each.best_of_n, each.findings)
        elif isinstance(each, Report):
            named[f"policy {len(named) + 1}" if named else "policy"] = each
        elif isinstance(each, Fit) and each.output_dir is not None:
            folders.append(each.output_dir)
        elif isinstance(each, Mapping):
            named.update(each)
        else:
            raise ConfigError(
                f"a page cannot show a {type(each).__name__}"
                + (" without an output_dir" if isinstance(each, Fit) else ""),
                where="report",
                hint="give reports of posteriori.evaluate by name, run folders or a Frontier",
            )
    wrong = [name for name, each in named.items() if not isinstance(each, Report)]
    if wrong:
        raise ConfigError(
            f"'{wrong[0]}' is a {type(named[wrong[0]]).__name__}, not a report",
            where="report",
            hint="give what posteriori.evaluate returned",
        )
    if not folders and not named:
        raise ConfigError("there is nothing to report on", where="report", hint="name a run")
    subject = gather(folders) if folders else Subject("", "", [])
    made = {name: PolicyResult.of(name, each, [], "") for name, each in named.items()}
    own = made.pop(PRIOR, None)
    prompts = dict(subject.prompts)
    for each in named.values():
        prompts.update(enumerate(each.draws.completions.prompt_set))
    subject = replace(
        subject,
        title=title or subject.title or "Policies against their target",
        results=[*subject.results, *made.values()],
        prior=own or subject.prior,
        prompts=prompts,
        num_prompts=max(subject.num_prompts, len(prompts)),
        curve=curve or subject.curve,
    )
    return write_report(path, subject)

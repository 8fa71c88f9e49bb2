"""`posteriori rules`: train a rule model per rule, from labelled violations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posteriori.cli.complete import models
from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import print_json
from posteriori.cli.console.would_run import show_plan
from posteriori.cli.files.one_table import read_table
from posteriori.cli.files.unfinished import offer_resume
from posteriori.cli.options import AsJson, DryRun, Overrides, Quiet, Resume
from posteriori.cli.several import single
from posteriori.config.find_model import find_model
from posteriori.config.run_config import RunRulesSettings


@single
def rules(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A TOML file with a table `rules`.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Rows of prompt, completion, rule, violated: .jsonl, .parquet, folder."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The backbone: a bundled name, a directory, a hub id.", autocompletion=models
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A new directory for the rule models.")
    ] = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Train a model of each rule on labelled violations, and say how far to trust each.

    The directory is evidence in a run file: kind = "rules", model = OUTPUT. --resume goes on with a
    run that was stopped: rules that are trained stay as they are.
    """
    given = {"labels": labels, "model": model, "output": output}
    needs = {"labels": "labels.jsonl", "output": "runs/rules"}
    settings, folder = read_table(
        RunRulesSettings, "rules", config, given, overrides or [], needs=needs
    )
    where = f"{config}: rules" if config else "rules"
    path = find_model(settings.model, folder, f"{where}.model")
    rows, place = folder / settings.labels, folder / settings.output

    from posteriori.core.settings.training import FitRewardConfig
    from posteriori.reward_models.fit_reward import refuse_idle
    from posteriori.reward_models.rules.finished import check_place
    from posteriori.reward_models.rules.labels import read_rule_labels

    check_place(place, resume=resume)
    refuse_idle(settings)
    by_rule = read_rule_labels(rows)
    if dry_run:
        counted = ", ".join(f"'{rule}' from {len(its)} labels" for rule, its in by_rule.items())
        would = f"a rule model each of {counted}, on '{path}'; all into '{place}'"
        return show_plan("rules", settings, would, as_json=as_json)

    from posteriori.cli.console.progress_bar import hush_transformers
    from posteriori.cli.console.rules_table import print_rules, rules_json, rules_progress
    from posteriori.reward_models.rules.fit_rules import fit_rules

    hush_transformers()
    own = settings.model_fields_set & FitRewardConfig.model_fields.keys()
    try:
        with rules_progress(by_rule, settings, quiet=quiet) as on_step:
            result = fit_rules(
                path,
                rows,
                output_dir=place,
                resume=resume,
                on_step=on_step,
                config=FitRewardConfig(**{name: getattr(settings, name) for name in own}),
            )
    except KeyboardInterrupt as error:
        if not place.is_dir():
            raise
        offer_resume(quiet=quiet)
        raise Interrupted(f"the rules that are trained are in '{place}'") from error
    if as_json:
        print_json(rules_json(result))
    else:
        print_rules(result)
    return 1 if any(finding.level == "stop" for finding in result.findings) else 0

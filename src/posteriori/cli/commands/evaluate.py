"""`posteriori evaluate`: how far are policies from a config's target?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posteriori.cli.complete import models
from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.engine import check_served, served_at
from posteriori.cli.expected_cost import ask_if_long, of_evaluate
from posteriori.cli.files.unfinished import Unfinished, say
from posteriori.cli.options import (
    Actors,
    AsJson,
    ConfigFile,
    OtherSeed,
    Overrides,
    Quiet,
    RayAddress,
    Resume,
    Yes,
)
from posteriori.cli.ray import ray_settings
from posteriori.cli.several import Processes, shared
from posteriori.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from posteriori.config.check import Plan
    from posteriori.core.settings.until import Until


@shared
def evaluate(
    config: ConfigFile,
    policies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[POLICY]...",
            help="Model or adapter directories, or hub ids; the run's own policy if none is given.",
            autocompletion=models,
        ),
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(min=2, help="Draws per prompt, instead of the config's.")
    ] = None,
    max_prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts to judge on, instead of the config's.")
    ] = None,
    posterior: Annotated[
        int | None,
        typer.Option(min=0, help="Exact draws of the target a prompt, for bounds on both sides."),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(
            help="Draw on until kl_to_target is known to +- so many nats, at every look together."
        ),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(min=2, help="Draws per prompt at which --until ends.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A policy behind an OpenAI-compatible server, such as http://localhost:8000/v1.",
        ),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(help="The name under which that server has it.")
    ] = None,
    seed: OtherSeed = None,
    resume: Resume = False,
    every_figure: Annotated[
        bool, typer.Option("--all", help="Show every figure, not the main ones alone.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    yes: Yes = False,
    actors: Actors = None,
    ray_address: RayAddress = None,
    processes: Processes = 1,  # noqa: ARG001 - `shared` takes it
) -> int:
    """Judge policies against the target of CONFIG, side by side with its prior.

    Whatever trained them: any directory with a transformers model or an adapter that has the
    prior's tokens; and, by --url, whatever a server with the prior's tokens draws. Exit code 1
    where a finding is of level stop. Until all is drawn, what is finished is kept in output_dir
    (beside the config where there is none), and --resume goes on from it.
    """
    from posteriori.config.check import make_plan

    check_served(url, served_model)
    plan = make_plan(config, overrides or [])
    ray = ray_settings(plan, actors, ray_address)
    names = _policies(plan, policies or []) if policies or url is None else {}

    from posteriori.cli.build import build_target, load_policy
    from posteriori.cli.files.evaluation import evaluation_json, judge, show
    from posteriori.cli.files.goals import asked_lines, pairs_of
    from posteriori.runs.target_fingerprint import digest
    from posteriori.runs.target_journal import keeping

    settings = plan.config.evaluate
    judging: dict[str, Any] = {
        "num_samples": settings.num_samples if num_samples is None else num_samples,
        "max_prompts": settings.max_prompts if max_prompts is None else max_prompts,
        "posterior": settings.posterior if posterior is None else posterior,
        "seed": settings.seed if seed is None else seed,
    }
    wait = settings.until if until is None else until
    most = settings.max_samples if max_samples is None else max_samples
    waiting: dict[str, Any] = {} if wait is None else {"until": wait, "max_samples": most}
    _check_waiting(wait, max_samples, most, judging["num_samples"])
    judging |= waiting
    work = of_evaluate(
        plan, judging["num_samples"], judging["max_prompts"], len(names) + (url is not None)
    )
    ask_if_long(plan, work, yes=yes, hint="lower --num-samples or --max-prompts")
    place = plan.file if plan.output_dir is None else plan.output_dir / "evaluate"
    unfinished = Unfinished(place)
    target = build_target(plan, quiet=quiet, journal=unfinished.of("moments"), resume=resume)
    models: dict[str, Any] = {
        name: load_policy(plan, path, target, quiet=quiet) for name, path in names.items()
    }
    models = {"prior": target.prior, **models}
    served = served_at(plan, target, url, served_model)
    if served is not None:
        models["served"] = served
    what = {"the work": "evaluate", "the policies": digest(list(models.items())), **judging}
    journal = unfinished.of("draws")
    try:
        with keeping(target, journal, lambda: what, resume=resume, on_note=say):
            reports = judge(target, models, **judging, quiet=quiet, ray=ray)
    except KeyboardInterrupt as error:
        raise Interrupted("what is finished is kept: go on from it with --resume") from error
    pairs = pairs_of(plan, target, models)
    reports = {name: report.with_pairs(pairs.get(name)) for name, report in reports.items()}
    evaluation = evaluation_json(reports, **judging, config=str(plan.file))
    unfinished.done()
    title = f"against the target of {plan.file}, {judging['num_samples']} draws per prompt"
    title += " at the first look" if waiting else ""
    return show(
        reports,
        evaluation,
        title=title,
        as_json=as_json,
        every_figure=every_figure,
        lines=asked_lines(reports),
        against_target=bool(target.evidence) or not pairs,
    )


def _check_waiting(
    until: Until | None, given: int | None, max_samples: int, num_samples: int
) -> None:
    if until is not None:
        from posteriori.core.settings.until import checked_until

        checked_until(until, max_samples, num_samples)
    elif given is not None:
        raise ConfigError("--max-samples has no effect", hint="give --until beside it")


def _policies(plan: Plan, given: list[str]) -> dict[str, str]:
    """Each policy's name in the table, and where it is. Paths count from the current directory,
    where the shell has completed them."""
    if given:
        from posteriori.config.find_model import find_model

        return {name: find_model(name, Path.cwd(), "POLICY") for name in given}
    if not plan.policy.is_dir():
        raise ModelError(
            f"there is no policy at '{plan.policy}'",
            where=str(plan.file),
            hint="run `posteriori fit` first, or name the policies on the command line",
        )
    return {"policy": str(plan.policy.absolute())}

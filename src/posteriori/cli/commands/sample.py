"""`posteriori sample`: draws of a config's target without training, into a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posteriori.cli.complete import samplers
from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.engine import drawn_by, running_engine
from posteriori.cli.expected_cost import ask_if_long, drawing
from posteriori.cli.files.unfinished import Unfinished, offer_resume
from posteriori.cli.options import (
    Actors,
    AsJson,
    ConfigFile,
    OtherSeed,
    Overrides,
    Proposal,
    Quiet,
    RayAddress,
    Resume,
    Yes,
)
from posteriori.cli.ray import ray_settings
from posteriori.cli.several import Processes, shared
from posteriori.errors import SamplingError, SamplingStopped

if TYPE_CHECKING:
    from posteriori.config.check import Plan
    from posteriori.config.choice import Choice
    from posteriori.config.run_config import SampleSettings
    from posteriori.core.settings.ray import RayConfig
    from posteriori.core.target import Target
    from posteriori.core.types import Draws
    from posteriori.samplers.base import Sampler


@shared
def sample(
    config: ConfigFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the draws go: .jsonl or .parquet.")
    ],
    sampler: Annotated[
        str | None,
        typer.Option(help="A name of `posteriori ls samplers`.", autocompletion=samplers),
    ] = None,
    num_samples: Annotated[int | None, typer.Option(min=1, help="Draws per prompt.")] = None,
    proposal: Proposal = None,
    seed: OtherSeed = None,
    resume: Resume = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    yes: Yes = False,
    actors: Actors = None,
    ray_address: RayAddress = None,
    processes: Processes = 1,  # noqa: ARG001 - `shared` takes it
) -> int:
    """Draw from the target of CONFIG, one record per draw, and say what the draws are worth.

    Finished draws are in the file while the others are still being drawn, and stay there whatever
    stops the run. --resume goes on from them, and ends with the very draws of a run that was never
    stopped; until then they are in a folder beside the file too, OUTPUT.unfinished.

    Beside the file, under its name with .json behind it, stands what `posteriori report` needs to
    put the sampler into the plane of a report.
    """
    from posteriori.cli.files.draws_file import check_output, write_draws
    from posteriori.cli.files.rescue import write_or_rescue
    from posteriori.cli.files.sample_about import config_of, write_about
    from posteriori.config.check import make_plan
    from posteriori.distributed.exchange import by_first

    plan = make_plan(config, overrides or [])
    ray = ray_settings(plan, actors, ray_address)
    settings, choice = _settings(plan, sampler, num_samples, proposal, seed)
    check_output(output)
    made = choice.make()
    unfinished = Unfinished(output)
    work = drawing(plan, len(plan.data), settings.num_samples)
    ask_if_long(plan, work, yes=yes, hint="lower --num-samples, or write [prompts] max_prompts")
    target, draws, stopped = _draw(
        plan,
        settings,
        made,
        output,
        unfinished,
        resume=resume,
        named_here=proposal is not None,
        quiet=quiet,
        ray=ray,
    )

    def write() -> None:
        all_of_them = f"all {len(draws)} draws"
        write_or_rescue(output, lambda path: write_draws(path, draws), all_of_them)
        write_about(output, config_of(plan), settings, made, target, draws)

    by_first(write)
    if stopped is None:
        unfinished.done()
    elif isinstance(stopped.__cause__, KeyboardInterrupt):
        offer_resume(quiet=quiet)
        kept = f"they are in '{output}'"
        raise Interrupted(kept, after=f"{len(draws)} draws") from stopped
    code = _show(target, draws, settings, output, as_json=as_json)
    if stopped is not None:
        offer_resume(quiet=quiet)
        raise SamplingError(
            stopped.what,
            hint=f"the finished draws are in '{output}'",
        ) from stopped
    return code


def _settings(
    plan: Plan,
    sampler: str | None,
    num_samples: int | None,
    proposal: str | None,
    seed: int | None,
) -> tuple[SampleSettings, Choice]:
    """The config's, with what the command line says instead; and the sampler that they name."""
    before, choice = plan.config.sample, plan.sampler
    given = {"sampler": sampler, "num_samples": num_samples, "proposal": proposal, "seed": seed}
    update: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    where = f"{plan.file}: sample.sampler"
    if sampler is not None and sampler != before.sampler:
        # The config's settings are of the other algorithm.
        choice, where = replace(choice, name=sampler, table={}), "--sampler"
    choice.check(where)
    update["settings"] = choice.given()
    return before.model_copy(update=update), choice


def _draw(
    plan: Plan,
    settings: SampleSettings,
    made: Sampler,
    output: Path,
    unfinished: Unfinished,
    *,
    resume: bool,
    named_here: bool,
    quiet: bool,
    ray: RayConfig | None,
) -> tuple[Target, Draws, SamplingStopped | None]:
    """The target and the draws; and where the sampler stopped half way, what it stopped with."""
    from posteriori.cli.build import build_target, load_policy
    from posteriori.cli.console.progress_bar import count_progress
    from posteriori.cli.files.draws_file import Kept
    from posteriori.config.find_model import find_model
    from posteriori.core.types import Finding
    from posteriori.samplers.sample import sample as draw_sample

    path = None
    if settings.proposal is not None:
        folder = Path.cwd() if named_here else plan.folder
        path = find_model(settings.proposal, folder, "proposal")
    target = build_target(plan, quiet=quiet, journal=unfinished.of("moments"), resume=resume)
    proposal = None if path is None else load_policy(plan, path, target, quiet=quiet)
    with (
        running_engine(plan, target) as engine,
        count_progress(settings.sampler, quiet=quiet) as on_progress,
    ):
        try:
            draws = draw_sample(
                target,
                made,
                settings.num_samples,
                drawn_by(engine, proposal, target),
                settings.seed,
                on_progress=on_progress,
                on_keep=Kept(output, resume=resume),
                journal=unfinished.of("draws"),
                resume=resume,
                ray=ray,
            )
        except SamplingStopped as error:
            cut = Finding("warn", "stopped", f"{error.what}.")
            kept = replace(error.draws, findings=(*error.draws.findings, cut))
            return target, kept, error
    return target, draws, None


def _show(
    target: Target, draws: Draws, settings: SampleSettings, output: Path, *, as_json: bool
) -> int:
    from posteriori.cli.console.draws_table import draws_json, print_draws
    from posteriori.cli.files.goals import moments_lines
    from posteriori.report.write.asked_json import moments_json
    from posteriori.runs.directory import jsonable

    met = {"draws": target.means_met(draws)}
    if as_json:
        moments = moments_json(met)
        measured = {"moments": jsonable(moments)} if moments else {}
        print_json(
            {**draws_json(draws), **measured, "sampler": settings.sampler, "output": str(output)}
        )
    else:
        print_draws(stdout(), draws, title=f"{settings.sampler}, seed {settings.seed}")
        for line in moments_lines(met):
            stdout().print(visible(line), soft_wrap=True)
        stdout().print(f"draws: {visible(str(output))}", soft_wrap=True)
    return 1 if any(finding.level == "stop" for finding in draws.findings) else 0

"""`posteriori sample`: draws of a config's target without training, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import SampleSettings, parse
from ..errors import ConfigError, SamplingError, SamplingStopped
from .check import Plan, find_model, make_plan
from .complete import samplers
from .interrupted import Interrupted
from .options import AsJson, ConfigFile, OtherSeed, Overrides, Proposal, Quiet
from .output import print_json, stdout, visible

if TYPE_CHECKING:
    from ..types import Draws


def sample(
    config: ConfigFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the draws go: .jsonl or .parquet.")
    ],
    sampler: Annotated[
        str | None,
        typer.Option(help="A name of `posteriori ls samplers`.", autocompletion=samplers),
    ] = None,
    num_samples: Annotated[int | None, typer.Option(min=1, help="Draws a prompt.")] = None,
    proposal: Proposal = None,
    seed: OtherSeed = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Draw from the target of CONFIG, one record a draw, and say what the draws are worth."""
    plan = make_plan(config, overrides or [])
    settings = _settings(plan, sampler, num_samples, proposal, seed)
    from .draws_file import check_output, write_draws

    check_output(output)
    draws, stopped = _draw(plan, settings, named_here=proposal is not None, quiet=quiet)
    write_draws(output, draws)
    if stopped is not None and isinstance(stopped.__cause__, KeyboardInterrupt):
        kept = f"they are in '{output}'"
        raise Interrupted(kept, after=f"{len(draws)} draws") from stopped
    code = _show(draws, settings, output, as_json=as_json)
    if stopped is not None:
        raise SamplingError(stopped.what, hint=f"the finished draws are in '{output}'") from stopped
    return code


def _settings(
    plan: Plan,
    sampler: str | None,
    num_samples: int | None,
    proposal: str | None,
    seed: int | None,
) -> SampleSettings:
    """The config's, with what the command line says instead."""
    before = plan.config.sample
    given = {"sampler": sampler, "num_samples": num_samples, "proposal": proposal, "seed": seed}
    said = {key: value for key, value in given.items() if value is not None}
    if sampler is not None and sampler != before.sampler:
        # They are settings of the other algorithm.
        said["settings"] = {}
    return parse(SampleSettings, {**before.model_dump(), **said}, where=f"{plan.file}: sample")


def _draw(
    plan: Plan, settings: SampleSettings, *, named_here: bool, quiet: bool
) -> tuple[Draws, SamplingStopped | None]:
    """The draws; and where the sampler stopped half way, what it stopped with."""
    from ..registry import find
    from ..sampling import sample as draw_sample
    from .build import build_target, load_policy
    from .progress import count_progress

    try:
        made = find("sampler", settings.sampler)(**settings.settings)
    except ConfigError as error:
        raise ConfigError(
            error.what, where=f"{plan.file}: sample.settings", hint=error.hint
        ) from error
    path = None
    if settings.proposal is not None:
        folder = Path.cwd() if named_here else plan.folder
        path = find_model(settings.proposal, folder, "proposal")
    target = build_target(plan, quiet=quiet)
    proposal = None if path is None else load_policy(plan, path, target, quiet=quiet)
    with count_progress(settings.sampler, quiet=quiet) as on_progress:
        try:
            draws = draw_sample(
                target,
                made,
                settings.num_samples,
                proposal,
                settings.seed,
                on_progress=on_progress,
            )
        except SamplingStopped as error:
            return error.draws, error
    return draws, None


def _show(draws: Draws, settings: SampleSettings, output: Path, *, as_json: bool) -> int:
    from .draws_table import draws_json, print_draws

    if as_json:
        print_json({**draws_json(draws), "sampler": settings.sampler, "output": str(output)})
    else:
        print_draws(stdout(), draws, title=f"{settings.sampler}, seed {settings.seed}")
        stdout().print(f"draws: {visible(str(output))}", soft_wrap=True)
    return 1 if any(finding.level == "stop" for finding in draws.findings) else 0

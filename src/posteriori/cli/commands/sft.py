"""`posteriori sft`: fine-tune a model on demonstrations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posteriori.cli.complete import models
from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.console.would_run import show_plan
from posteriori.cli.files.one_table import read_table
from posteriori.cli.options import AsJson, DryRun, Overrides, Overwrite, Quiet, Resume
from posteriori.cli.several import Processes, shared
from posteriori.config.find_model import find_model
from posteriori.config.places import check_place
from posteriori.config.run_config import RunSftSettings
from posteriori.core.settings.training import FitConfig
from posteriori.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from posteriori.train.fit_result import Fit


@shared
def sft(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A TOML file with a table `sft`.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Rows of prompt and completion, messages, or text: .jsonl, .parquet."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="What it begins with: a bundled name, a directory, a hub id.",
            autocompletion=models,
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A new directory for the run.")
    ] = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    processes: Processes = 1,  # noqa: ARG001 - `shared` takes it
) -> int:
    """Fine-tune a model on demonstrations, and say by how many nats it nears held-out ones.

    The policy is in OUTPUT/policy: a run starts from it by `start` in its table `fit`.
    """
    given = {"data": data, "model": model, "output": output}
    needs = {"data": "demonstrations.jsonl", "output": "runs/sft"}
    settings, folder = read_table(
        RunSftSettings, "sft", config, given, overrides or [], needs=needs
    )
    where = f"{config}: sft" if config else "sft"
    path = find_model(settings.model, folder, f"{where}.model")
    rows, place = folder / settings.data, folder / settings.output
    _check_output(place, where, resume=resume, overwrite=overwrite)
    of_fit = _of_fit(settings)

    from posteriori.data.demonstrations import read_demonstrations
    from posteriori.train.sft import check_settings, split_rows, steps_of

    check_settings(of_fit, settings.epochs)
    demonstrations = read_demonstrations(rows, completion_only=settings.completion_only)
    kept, judging = split_rows(demonstrations, settings.held_out, settings.seed)
    steps = settings.steps or steps_of(settings.epochs, len(kept), settings.rows_per_step)
    if dry_run:
        would = (
            f"sft, {steps} steps of {settings.rows_per_step} of {len(kept)} rows, policy "
            f"'{settings.policy}' from '{path}', judged by {len(judging) or 'no'} held-out rows; "
            f"all into '{place}'"
        )
        return show_plan("sft", settings, would, as_json=as_json)
    try:
        fitted = _train(
            settings,
            path,
            rows,
            place,
            of_fit,
            steps,
            resume=resume,
            overwrite=overwrite,
            quiet=quiet,
        )
    except KeyboardInterrupt as error:
        if not (place / "config.json").exists():
            raise
        raise Interrupted("go on from the newest checkpoint with --resume") from error
    return _show(fitted, place, as_json=as_json)


def _check_output(place: Path, where: str, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError(
            "--resume and --overwrite exclude each other", hint="leave out one of them"
        )
    check_place(place, where)
    if (place / "config.json").exists() and not (resume or overwrite):
        raise CheckpointError(
            f"'{place}' already holds a run",
            hint="go on with it by --resume, remove it by --overwrite, or choose another output",
        )


def _of_fit(settings: RunSftSettings) -> dict[str, Any]:
    """What was said of the loop itself."""
    names = settings.model_fields_set & FitConfig.model_fields.keys()
    return {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}


def _train(
    settings: RunSftSettings,
    path: str,
    rows: Path,
    place: Path,
    of_fit: dict[str, Any],
    steps: int,
    *,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> Fit:
    from posteriori.cli.console.progress_bar import fit_progress, hush_transformers, status
    from posteriori.models.load import load
    from posteriori.train.sft import sft as run_sft

    with status(f"loading '{path}'", quiet=quiet):
        lm = load(path)
    hush_transformers()
    with fit_progress("sft", steps, quiet=quiet) as shown:
        return run_sft(
            lm,
            rows,
            max_new_tokens=settings.max_new_tokens,
            completion_only=settings.completion_only,
            epochs=settings.epochs,
            rows_per_step=settings.rows_per_step,
            held_out=settings.held_out,
            output_dir=place,
            resume=resume,
            overwrite=overwrite,
            on_step=shown,
            on_note=shown.note,
            record={"model": path, "data": str(rows)},
            **of_fit,
        )


def _show(fitted: Fit, place: Path, *, as_json: bool) -> int:
    import json

    from posteriori.cli.console.likelihood_table import print_likelihood
    from posteriori.core.journal.files import write_whole
    from posteriori.distributed.exchange import by_first
    from posteriori.runs.directory import finding_json, jsonable

    assert fitted.likelihood is not None
    about = {
        **asdict(fitted.likelihood),
        "findings": [finding_json(each) for each in fitted.findings],
        "output": str(place),
    }
    by_first(
        lambda: write_whole(place / "likelihood.json", json.dumps(jsonable(about), indent=2) + "\n")
    )
    if as_json:
        print_json(about)
    else:
        print_likelihood(fitted)
        stdout().print(f"policy: {visible(str(place / 'policy'))}", soft_wrap=True)
    return 1 if any(finding.level == "stop" for finding in fitted.findings) else 0

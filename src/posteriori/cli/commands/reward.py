"""`posteriori reward`: train a reward model from human preferences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posteriori.cli.complete import models
from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import print_json, stderr, visible
from posteriori.cli.console.would_run import show_plan
from posteriori.cli.files.one_table import read_table
from posteriori.cli.files.unfinished import offer_resume
from posteriori.cli.options import AsJson, DryRun, Overrides, Quiet, Resume
from posteriori.cli.several import single
from posteriori.config.find_model import find_model
from posteriori.config.run_config import RunRewardSettings

if TYPE_CHECKING:
    from posteriori.reward_models.fit_reward import RewardFit


@single
def reward(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="A TOML file with a table `reward`."),
    ] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Rows of prompt, chosen, rejected: .jsonl, .parquet, folder.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The backbone: a bundled name, a directory, a hub id.", autocompletion=models
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A new directory for the reward model.")
    ] = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Train a reward model on preference pairs, and say how far to trust it.

    --resume goes on with a run that was stopped, and ends with the very model of one that was not.
    """
    given = {"pairs": pairs, "model": model, "output": output}
    needs = {"pairs": "pairs.jsonl", "output": "runs/reward"}
    settings, folder = read_table(
        RunRewardSettings, "reward", config, given, overrides or [], needs=needs
    )
    from posteriori.reward_models.fit_reward import fit_reward, refuse_idle
    from posteriori.reward_models.labelled_pairs import read_labelled_pairs
    from posteriori.reward_models.writer import new_directory

    where = f"{config}: reward" if config else "reward"
    path = find_model(settings.model, folder, f"{where}.model")
    target = new_directory(folder / settings.output, resume=resume)
    rows = folder / settings.pairs
    held_out = None if settings.held_out_pairs is None else folder / settings.held_out_pairs
    count = len(read_labelled_pairs(rows))
    if held_out is not None:
        read_labelled_pairs(held_out)
    refuse_idle(settings)
    if dry_run:
        would = f"a reward model from {count} pairs, on '{path}'; all into '{target}'"
        return show_plan("reward", settings, would, as_json=as_json)

    from posteriori.cli.console.progress_bar import hush_transformers
    from posteriori.cli.console.reward_table import print_reward, reward_json, reward_progress

    hush_transformers()
    try:
        with reward_progress(settings.epochs, count, settings.batch_size, quiet=quiet) as on_step:
            result = fit_reward(
                path,
                rows,
                held_out_pairs=held_out,
                output_dir=target,
                resume=resume,
                on_step=on_step,
                config=settings,
            )
    except BaseException as error:
        # Whatever stopped it, a person should hear that the run was not for nothing.
        if not (target / "checkpoint").is_dir():
            raise
        offer_resume(quiet=quiet)
        kept = f"the best model so far is in '{target / 'checkpoint'}'"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(kept) from error
        stderr().print(visible(kept), soft_wrap=True)
        raise
    _draw(result, target)
    if as_json:
        print_json(reward_json(result))
    else:
        print_reward(result)
    return 1 if any(finding.level == "stop" for finding in result.findings) else 0


def _draw(result: RewardFit, folder: Path) -> None:
    from functools import partial

    from posteriori.report.draw.figures import svg
    from posteriori.report.draw.reliability_diagram import reliability_diagram
    from posteriori.report.draw.theme import EITHER

    drawn = svg(partial(reliability_diagram, result.held_out), EITHER)
    (folder / "reliability.svg").write_text(drawn, encoding="utf-8")

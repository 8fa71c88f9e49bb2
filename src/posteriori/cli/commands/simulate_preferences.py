"""`posteriori simulate-preferences`: labelled pairs of which the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import json_text, print_json, stdout, visible
from posteriori.cli.expected_cost import ask_if_long, drawing
from posteriori.cli.files.unfinished import Unfinished
from posteriori.cli.options import (
    AsJson,
    ConfigFile,
    Overrides,
    Overwrite,
    Quiet,
    Resume,
    Seed,
    Yes,
)
from posteriori.cli.several import single
from posteriori.errors import CheckpointError, ConfigError


@single
def simulate_preferences(
    config: ConfigFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new .jsonl file.")],
    num_pairs: Annotated[int, typer.Option(min=1, help="Over all prompts.")] = 1000,
    scale: Annotated[
        float, typer.Option(help="Difference of utility at which the odds are e to 1.")
    ] = 1.0,
    noise: Annotated[float, typer.Option(help="Share of labels that are swapped.")] = 0.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    yes: Yes = False,
) -> int:
    """Draw pairs from CONFIG's prior and label them by its reward, under Bradley-Terry.

    Until all are drawn, what is finished is in a folder beside the file, OUTPUT.unfinished;
    --resume goes on from it, and ends with the very pairs of a run that was never stopped.
    """
    from posteriori.config.check import make_plan

    plan = make_plan(config, overrides or [])
    if output.suffix != ".jsonl":
        raise ConfigError(f"pairs are not written to a '{output.suffix}' file", hint="write .jsonl")
    if output.exists() and not overwrite:
        raise CheckpointError(
            f"'{output}' is there already", hint="choose another --output, or write --overwrite"
        )
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder '{output.parent}'", hint="make it first")
    if not resume:
        work = drawing(plan, num_pairs, 2)
        ask_if_long(plan, work, yes=yes, hint="lower --num-pairs")

    from posteriori.cli.build import build_target
    from posteriori.cli.console.progress_bar import count_progress
    from posteriori.cli.files.rescue import write_or_rescue
    from posteriori.core.journal.files import write_whole
    from posteriori.reward_models.simulate_preferences import best_accuracy
    from posteriori.reward_models.simulate_preferences import simulate_preferences as simulate

    unfinished = Unfinished(output)
    target = build_target(plan, quiet=quiet, journal=unfinished.of("moments"), resume=resume)
    try:
        with count_progress("drawing pairs", quiet=quiet) as on_progress:
            rows = simulate(
                target,
                num_pairs,
                scale=scale,
                noise=noise,
                seed=seed,
                on_progress=on_progress,
                journal=unfinished.of("draws"),
                resume=resume,
            )
    except KeyboardInterrupt as error:
        raise Interrupted("what is finished is kept: go on from it with --resume") from error
    text = "".join(f"{json_text(row)}\n" for row in rows)
    write_or_rescue(output, lambda path: write_whole(path, text), f"all {len(rows)} pairs")
    unfinished.done()
    best = best_accuracy(rows, scale=scale, noise=noise)
    if as_json:
        print_json({"num_pairs": len(rows), "best_accuracy": best, "output": str(output)})
    else:
        stdout().print(
            f"{len(rows)} pairs; knowing the utility, {100 * best:.1f}% of such labels can be "
            "predicted"
            f"\npairs: {visible(str(output))}",
            soft_wrap=True,
        )
    return 0

"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .complete import models, settings

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: fit.learning_rate=1e-3, evidence.0.beta=0.2. May be repeated.",
        autocompletion=settings,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on from what an unfinished run of the same has finished."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, load and run nothing.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Remove what an earlier run has left there first, and nothing else."
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask before what takes above an hour.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
OtherSeed = Annotated[int | None, typer.Option(min=0, help="Instead of the config's.")]
Actors = Annotated[
    int | None,
    typer.Option(min=1, help="Actors of Ray that share the work; or write a table [ray]."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="The Ray cluster of the actors; one of this machine if none is given."),
]
Proposal = Annotated[
    str | None,
    typer.Option(
        help="A model or adapter to draw by; the prior if none is given.", autocompletion=models
    ),
]

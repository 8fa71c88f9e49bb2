"""`posteriori config schema`: what a run file may say, for editors."""

from __future__ import annotations

import typer

from posteriori.cli.console.output import print_json

config = typer.Typer(help="About run files: their JSON Schema.")


@config.callback()
def _config() -> None:
    """About run files: their JSON Schema."""


@config.command()
def schema() -> int:
    """Print the JSON Schema of a run file (draft 2020-12), with what plugins add to it.

    Editors that know it complete keys and mark wrong ones: `posteriori config schema > run.json`,
    and a first line `#:schema ./run.json` in the file for editors with Taplo.
    """
    from posteriori.config.run_config import RunConfig
    from posteriori.config.schema import run_schema

    print_json(run_schema(RunConfig))
    return 0

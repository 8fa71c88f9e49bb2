"""`posteriori ls`: what there is by name, one line each."""

from __future__ import annotations

from typing import Annotated

import typer

from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.listed import KINDS, listed
from posteriori.cli.options import AsJson
from posteriori.errors import unknown_name


def ls(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help=f"One of: {', '.join(KINDS)}.",
            autocompletion=lambda: list(KINDS),
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List objectives, samplers, evidence, twists and models, built in and of plugins."""
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of thing", kind, KINDS)
    found = {each: listed(each) for each in ([kind] if kind else KINDS)}
    if as_json:
        print_json(found)
        return 0
    console = stdout()
    width = max((len(name) for lines in found.values() for name in lines), default=0)
    for each, lines in found.items():
        if kind is None and lines:
            console.print(f"{each}:")
        for name, line in lines.items():
            indent = "  " if kind is None else ""
            console.print(f"{indent}{name:<{width}}  {visible(line)}", soft_wrap=True)
    return 0

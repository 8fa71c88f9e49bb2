"""`posteriori turning-point`: how far to follow a reward model, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.console.report_table import print_finding
from posteriori.cli.expected_cost import ask_if_long, drawing, in_words
from posteriori.cli.options import AsJson, ConfigFile, DryRun, Overrides, Quiet, Seed, Yes
from posteriori.cli.several import single
from posteriori.config.check import make_plan

if TYPE_CHECKING:
    from posteriori.diagnostics.frontier.turning_point import TurningPoint

_ROWS = 12
"""Points of the curve that the table shows."""


@single
def turning_point(
    config: ConfigFile,
    num_samples: Annotated[int, typer.Option(min=60, help="Draws of the prior per prompt.")] = 2000,
    num_worlds: Annotated[
        int, typer.Option(min=20, help="Draws of what the reward may be.")
    ] = 1000,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    seed: Seed = 0,
    dry_run: DryRun = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    yes: Yes = False,
) -> int:
    """Where what is wanted is foretold to turn down along the preferences of CONFIG.

    CONFIG has one piece of evidence of kind "preferences", whose reward model was trained with an
    uncertainty ("laplace" or "ensemble"). Nothing is trained.
    """
    plan = make_plan(config, overrides or [])
    work = drawing(plan, len(plan.data), num_samples, 1)
    if dry_run:
        would = f"{num_worlds} worlds; {in_words(plan, work)}"
        if as_json:
            print_json({"would_run": would})
        else:
            stdout().print(f"would run: {visible(would)}", soft_wrap=True)
        return 0
    ask_if_long(plan, work, yes=yes, hint="lower --num-samples")
    from posteriori.cli.build import build_target
    from posteriori.cli.console.progress_bar import status
    from posteriori.diagnostics.frontier.turning_point import turning_point as foretell
    from posteriori.runs.directory import jsonable

    target = build_target(plan, finds_beta=False, quiet=quiet)
    with status("drawing from the prior", quiet=quiet):
        found = foretell(target, num_samples, seed, num_worlds=num_worlds, confidence=confidence)
    if as_json:
        print_json(jsonable(_json(found)))
    else:
        _print(found, f"turning point of {plan.file}, {num_samples} draws per prompt")
    return 0


def _print(found: TurningPoint, title: str) -> None:
    console = stdout()
    console.print(visible(title), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for header in ("beta", "KL, nats", "wanted reward", f"{found.confidence:.0%} interval"):
        table.add_column(header, justify="right")
    every = max(1, len(found.curve) // _ROWS)
    for beta, kl, mean, low, high in found.curve[::every]:
        table.add_row(f"{beta:.3g}", f"{kl:.3g}", f"{mean:.3g}", f"{low:.3g} to {high:.3g}")
    console.print(table)
    (low, high), (weak, strong) = found.kl_interval, found.beta_interval
    console.print(
        f"turns at KL {found.kl:.3g} nats ({low:.3g} to {high:.3g}), beta {found.beta:.3g} "
        f"({weak:.3g} to {strong:.3g}); with probability {found.turns:.2f} before the curve ends",
        soft_wrap=True,
    )
    for finding in found.findings:
        print_finding(console, finding)


def _json(found: TurningPoint) -> dict[str, Any]:
    from posteriori.runs.directory import finding_json

    names = ("beta", "kl", "reward", "low", "high")
    return {
        "kl": found.kl,
        "kl_interval": found.kl_interval,
        "beta": found.beta,
        "beta_interval": found.beta_interval,
        "turns": found.turns,
        "confidence": found.confidence,
        "curve": [dict(zip(names, point, strict=True)) for point in found.curve],
        "findings": [finding_json(each) for each in found.findings],
    }

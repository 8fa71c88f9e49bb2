"""`posteriori frontier`: what reward each nat of KL can buy, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.engine import running_engine
from posteriori.cli.expected_cost import ask_if_long, of_frontier
from posteriori.cli.files.unfinished import Unfinished
from posteriori.cli.options import (
    Actors,
    AsJson,
    ConfigFile,
    Overrides,
    Quiet,
    RayAddress,
    Resume,
    Seed,
    Yes,
)
from posteriori.cli.ray import ray_settings
from posteriori.cli.several import Processes, shared
from posteriori.core.settings.defaults import MAX_PROMPTS

if TYPE_CHECKING:
    from rich.console import Console

    from posteriori.diagnostics.frontier.curve import Frontier, Point

_ROWS = 12
"""Points of the curve that the table shows."""


@shared
def frontier(
    config: ConfigFile,
    num_samples: Annotated[
        int, typer.Option(min=100, help="Draws of the prior per prompt.")
    ] = 2000,
    max_prompts: Annotated[
        int, typer.Option(min=1, help="Prompts that are drawn for, where there are more.")
    ] = MAX_PROMPTS,
    stages: Annotated[
        int, typer.Option(min=0, help="Times that annealed draws may carry the curve on.")
    ] = 2,
    strongest: Annotated[
        float, typer.Option(help="How many times as strong as the target's own evidence to go.")
    ] = 10.0,
    kl: Annotated[list[float] | None, typer.Option(help="Ask for the beta at this KL.")] = None,
    reward: Annotated[
        list[float] | None, typer.Option(help="Ask for the beta of this mean reward.")
    ] = None,
    beta: Annotated[list[float] | None, typer.Option(help="Ask for KL and reward there.")] = None,
    seed: Seed = 0,
    resume: Resume = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    yes: Yes = False,
    actors: Actors = None,
    ray_address: RayAddress = None,
    processes: Processes = 1,  # noqa: ARG001 - `shared` takes it
) -> int:
    """The best reachable reward at each KL from the prior of CONFIG, with the beta that reaches it.

    --kl, --reward and --beta may be repeated. Until all is drawn, what is finished is kept in
    output_dir (beside the config where there is none), and --resume goes on from it.
    """
    from posteriori.cli.build import build_target
    from posteriori.cli.console.progress_bar import count_progress
    from posteriori.config.check import make_plan
    from posteriori.diagnostics.frontier.frontier import frontier as find_frontier
    from posteriori.train.budget import in_own_units

    plan = make_plan(config, overrides or [])
    ray = ray_settings(plan, actors, ray_address)
    work = of_frontier(plan, num_samples, max_prompts, stages)
    ask_if_long(plan, work, yes=yes, hint="lower --num-samples or --max-prompts")
    place = plan.file if plan.output_dir is None else plan.output_dir
    unfinished = Unfinished(place / "frontier" if place != plan.file else place)
    target = build_target(
        plan,
        finds_beta=False,
        quiet=quiet,
        journal=unfinished.of("moments"),
        resume=resume,
    )
    if plan.budget is not None:
        target = in_own_units(target, seed)
    size = f"{min(max_prompts, len(target.prompts))} prompts x {num_samples} draws"
    try:
        with (
            running_engine(plan, target) as engine,
            count_progress("frontier", quiet=quiet) as on_progress,
        ):
            curve = find_frontier(
                target,
                num_samples,
                seed,
                stages=stages,
                strongest=strongest,
                max_prompts=max_prompts,
                on_progress=on_progress,
                journal=unfinished.of("draws"),
                resume=resume,
                ray=ray,
                sampler=engine,
            )
    except KeyboardInterrupt as error:
        raise Interrupted("what is finished is kept: go on from it with --resume") from error
    asked = [
        *((f"KL {nats:g}", curve.at_kl(nats)) for nats in kl or []),
        *((f"reward {value:g}", curve.at_reward(value)) for value in reward or []),
        *((f"beta {value:g}", curve.at_beta(value)) for value in beta or []),
    ]
    if as_json:
        from posteriori.report.write.evaluation_files import frontier_json

        print_json(frontier_json(curve, asked))
    else:
        _print(stdout(), curve, asked, title=f"frontier of {plan.file}, {size}")
    unfinished.done()
    return 1 if any(finding.level == "stop" for finding in curve.findings) else 0


def _print(
    console: Console, curve: Frontier, asked: list[tuple[str, Point]], *, title: str
) -> None:
    from rich import box
    from rich.table import Table

    from posteriori.cli.console.report_table import print_finding, shown

    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for header in ("", "beta", "KL, nats", "reward", "Pareto k", "draws of"):
        table.add_column(header, justify="left" if header in ("", "draws of") else "right")
    every = max(1, len(curve.points) // _ROWS)
    rows = [("", point) for point in curve.points[every - 1 :: every]]
    for label, point in [*rows, *asked]:
        table.add_row(
            label,
            f"{point.beta:.3g}",
            shown(point.kl),
            shown(point.reward),
            f"{point.pareto_k:.2f}",
            point.source,
        )
    for best in curve.best_of_n:
        table.add_row(f"best of {best.n}", "", shown(best.kl), shown(best.reward), "", "prior")
    console.print(visible(title), soft_wrap=True)
    console.print(table)
    for finding in curve.findings:
        print_finding(console, finding)

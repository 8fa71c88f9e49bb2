"""`posteriori demo`: the library's claim on a real language model; three minutes on two cores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import print_json, stdout
from posteriori.cli.options import AsJson, Quiet, Seed
from posteriori.cli.several import single

from .plan import FULL, QUICK, Scale, make_room, offensiveness, prompts, trials

if TYPE_CHECKING:
    from posteriori.diagnostics.evaluate.evaluate import Report


@single
def demo(
    output_dir: Annotated[
        Path, typer.Option(help="Where runs and report go; what is there is set aside.")
    ] = Path("runs/demo"),
    seed: Seed = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps only, to see that everything works.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Align the bundled model to be less offensive: by reward alone, and as inference."""
    from .fits import one_thread

    offensiveness()
    scale = QUICK if quick else FULL
    make_room(output_dir)

    try:
        with one_thread():
            return _demo(scale, output_dir, seed, as_json=as_json, quiet=quiet)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"what was finished is in '{output_dir}'; the next demo starts anew, and sets it aside"
        ) from error


def _demo(
    scale: Scale,
    output_dir: Path,
    seed: int,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    from posteriori.cli.console.progress_bar import hush_transformers, status
    from posteriori.cli.files.evaluation import judge
    from posteriori.models.load import load

    from .fits import Job, demo_target, fit_all
    from .show import print_demo, write_demo

    with status("loading the bundled model", quiet=quiet):
        prior = load("tiny")
    hush_transformers()
    chosen = tuple(prompts()[: scale.num_prompts])
    names = {trial.name: trial for trial in trials(scale)}
    jobs = [Job(t, scale, chosen, output_dir / t.folder, seed) for t in names.values()]
    fits = fit_all(jobs, _workers(scale), quiet=quiet)
    targets = {beta: demo_target(prior, beta, chosen, scale) for beta in scale.betas}
    judging: dict[str, Any] = {"num_samples": scale.judged_by, "posterior": 0, "seed": seed}
    of_prior = {
        beta: judge(target, {"prior": prior}, **judging, quiet=quiet)["prior"]
        for beta, target in targets.items()
    }
    reports: dict[str, Report] = {"prior": of_prior[scale.betas[-1]]}
    for name, trial in names.items():
        policies = {name: fits[name].policy}
        reports |= judge(targets[trial.beta], policies, **judging, quiet=quiet)
    distances = {beta: report["kl_to_target"] for beta, report in of_prior.items()}
    evaluation = write_demo(
        output_dir, targets[scale.betas[-1]], names, fits, reports, distances, scale, seed
    )
    if as_json:
        print_json(evaluation)
    else:
        print_demo(stdout(), names, reports, distances, scale, output_dir)
    return 0


def _workers(scale: Scale) -> int:
    """How many fits run at once: one for each core, where they take longer than a process does to
    start."""
    if scale is not FULL:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

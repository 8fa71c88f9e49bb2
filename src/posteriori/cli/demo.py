"""`posteriori demo`: the library's claim on a real language model, in two minutes on two cores."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .demo_plan import FULL, QUICK, Scale, Trial, make_room, offensiveness, prompts, trials
from .interrupted import Interrupted
from .options import AsJson, Quiet, Seed
from .output import print_json, stdout

if TYPE_CHECKING:
    from ..diagnostics.evaluate import Report
    from ..target import Target
    from ..train.loop import Fit


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
    score = offensiveness()
    scale = QUICK if quick else FULL
    make_room(output_dir)

    try:
        with one_thread():
            return _demo(score, scale, output_dir, seed, as_json=as_json, quiet=quiet)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"what was finished is in '{output_dir}'; the next demo starts anew, and sets it aside"
        ) from error


def _demo(
    score: Callable[..., list[float]],
    scale: Scale,
    output_dir: Path,
    seed: int,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    from ..evidence.reward import Reward
    from ..models.load import load
    from ..target import Target
    from .demo_show import print_demo, write_demo
    from .judge import judge
    from .progress import hush_transformers, status

    with status("loading the bundled model", quiet=quiet):
        prior = load("tiny")
    hush_transformers()
    targets = {
        beta: Target(prior, Reward(score, beta=beta), prompts(), scale.max_new_tokens)
        for beta in scale.betas
    }
    names = {trial.name: trial for trial in trials(scale)}
    fits = {
        name: _fit(targets[trial.beta], trial, scale, output_dir / trial.folder, seed, quiet=quiet)
        for name, trial in names.items()
    }
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


@contextmanager
def one_thread() -> Iterator[None]:
    """The bundled model's products are too small to be shared: a second thread gains little on an
    idle machine, and on a busy one the two wait for each other, ten times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    target: Target, trial: Trial, scale: Scale, folder: Path, seed: int, *, quiet: bool
) -> Fit:
    from ..train.loop import fit
    from .progress import fit_progress

    settings = trial.settings(scale)
    with fit_progress(trial.name, settings["steps"], quiet=quiet) as on_step:
        result = fit(
            target,
            trial.objective,
            output_dir=folder,
            on_step=on_step,
            on_note=on_step.note,
            config={"beta": trial.beta, "prior": "tiny", "max_new_tokens": scale.max_new_tokens},
            checkpoint_every=settings["steps"],
            keep_checkpoints=1,
            seed=seed,
            **settings,
        )
    # Three times the policy's size, and of no use once the policy has been saved beside it.
    shutil.rmtree(folder / "checkpoints")
    return result

"""The demo's fits: side by side in processes of their own, one for each core."""

from __future__ import annotations

import multiprocessing
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.cli.console.progress_bar import FitShown, fits_progress, hush_transformers

from .plan import Scale, Trial, offensiveness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from posteriori.core.target import Target
    from posteriori.models.causal import CausalLM


Item = tuple[str, dict[str, Any] | str]
"""A fit's name, and the record of a step or a note."""


@dataclass(frozen=True)
class Job:
    """One fit: all that a process needs to make it."""

    trial: Trial
    scale: Scale
    prompts: tuple[str, ...]
    folder: Path
    seed: int


@dataclass(frozen=True)
class Fitted:
    """What the demo shows of a fit: the policy that was saved, and a record per step."""

    policy: CausalLM
    history: list[dict[str, Any]]


def demo_target(prior: CausalLM, beta: float, prompts: Sequence[str], scale: Scale) -> Target:
    """prior x exp(-P(offensive) / beta)."""
    from posteriori.core.target import Target
    from posteriori.evidence.reward import Reward

    return Target(prior, Reward(offensiveness(), beta=beta), list(prompts), scale.max_new_tokens)


def fit_all(jobs: Sequence[Job], workers: int, *, quiet: bool) -> dict[str, Fitted]:
    """Every job's fit by the trial's name, at most `workers` at a time. A fit's result does not
    depend on what runs beside it."""
    from posteriori.models.load import load

    steps = {job.trial.name: job.trial.settings(job.scale)["steps"] for job in jobs}
    with fits_progress(steps, quiet=quiet) as shown:
        if min(workers, len(jobs)) == 1:
            each = ((job, shown[job.trial.name]) for job in jobs)
            histories = [_fit(job, show, show.note) for job, show in each]
        else:
            histories = _in_processes(jobs, workers, shown)
    return {
        job.trial.name: Fitted(load(job.folder / "policy"), history)
        for job, history in zip(jobs, histories, strict=True)
    }


def _in_processes(
    jobs: Sequence[Job], workers: int, shown: dict[str, FitShown]
) -> list[list[dict[str, Any]]]:
    # Spawned, not forked: a copy of a process whose libraries have threads can wait for ever.
    context = multiprocessing.get_context("spawn")
    records: SimpleQueue[Item | None] = context.SimpleQueue()
    stop = context.Event()

    def show() -> None:
        while (item := records.get()) is not None:
            name, what = item
            shown[name].note(what) if isinstance(what, str) else shown[name](what)

    shower = threading.Thread(target=show, daemon=True)
    shower.start()
    try:
        with ProcessPoolExecutor(
            min(workers, len(jobs)), context, initializer=_begin, initargs=(records, stop)
        ) as pool:
            try:
                return list(pool.map(_fit_elsewhere, jobs))
            except BaseException:
                # The others end with their next step; without this they would be waited for.
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        records.put(None)
        shower.join()


_outside: tuple[SimpleQueue[Item | None], Event] | None = None
"""In a process of its own: where a fit's records go, and what ends it."""


def _begin(records: SimpleQueue[Item | None], stop: Event) -> None:
    global _outside
    _outside = records, stop


def _fit_elsewhere(job: Job) -> list[dict[str, Any]]:
    assert _outside is not None, "the process was begun by _begin"
    records, stop = _outside
    hush_transformers()

    def show(what: dict[str, Any] | str) -> None:
        records.put((job.trial.name, what))
        if stop.is_set():
            raise KeyboardInterrupt

    with one_thread():
        return _fit(job, show, show)


def _fit(
    job: Job, on_step: Callable[[dict[str, Any]], None], on_note: Callable[[str], None]
) -> list[dict[str, Any]]:
    from posteriori.models.load import load
    from posteriori.train.fit import fit

    trial, scale = job.trial, job.scale
    settings = trial.settings(scale)
    result = fit(
        demo_target(load("tiny"), trial.beta, job.prompts, scale),
        trial.objective,
        output_dir=job.folder,
        on_step=on_step,
        on_note=on_note,
        record={"beta": trial.beta, "prior": "tiny", "max_new_tokens": scale.max_new_tokens},
        checkpoint_every=settings["steps"],
        keep_checkpoints=1,
        seed=job.seed,
        **settings,
    )
    # Three times the policy's size, and of no use once the policy has been saved beside it.
    shutil.rmtree(job.folder / "checkpoints")
    return result.history


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

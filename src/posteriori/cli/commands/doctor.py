"""`posteriori doctor`: does this machine have what the library needs?"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.text import Text

from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.options import AsJson
from posteriori.distributed.environment import launched
from posteriori.distributed.world import current, together
from posteriori.models.bundled import bundled_models

_FREE_GIB = 2.0
"""A fit of a small model with its checkpoints needs about this much disk."""

_STYLES = {"ok": "green", "info": "dim", "warn": "yellow", "stop": "bold red"}


class Check(NamedTuple):
    """One line: what was looked at, how it stands, and what to do about it.

    Levels: "ok"; "info", something optional is not there; "warn", slower or tighter than it could
    be; "stop", something that is needed is missing or broken.
    """

    name: str
    level: str
    message: str


class Part(NamedTuple):
    """Checks that belong together, and what helps where they cannot be made at all."""

    name: str
    look: Callable[[], Iterator[Check]]
    hint: str


def doctor(
    output_dir: Annotated[
        Path, typer.Option(help="Where runs are to go; it need not be there yet.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Check versions, threads, number formats, the bundled model, extras and disk space.

    Each fault comes with what to do. Exit code 1 where something that is needed is missing.
    """
    parts = (*_PARTS, Part("disk", partial(_disk, output_dir), "choose another --output-dir"))
    checks = [check for part in parts for check in _safely(part)]
    if as_json:
        print_json([check._asdict() for check in checks])
    else:
        console = stdout()
        for check in checks:
            level = (f"{check.level:<5}", _STYLES[check.level])
            line = Text.assemble(level, f"{check.name}: {visible(check.message)}")
            console.print(line, soft_wrap=True)
    return 1 if any(check.level == "stop" for check in checks) else 0


def _safely(part: Part) -> list[Check]:
    """A broken installation fails in ways of its own, and the other checks still have a say."""
    try:
        return list(part.look())
    except Exception as error:
        what = f"{type(error).__name__}: {error}".rstrip(".")
        return [Check(part.name, "stop", f"{what}; {part.hint}")]


def _versions() -> Iterator[Check]:
    from packaging.requirements import Requirement

    yield Check("python", "ok", platform.python_version())
    for line in requires("posteriori") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield Check(wanted.name, "stop", f"not installed; pip install '{line}'")
            continue
        if wanted.specifier.contains(found, prereleases=True):
            yield Check(wanted.name, "ok", found)
        else:
            message = f"{found} is not {wanted.specifier}; pip install '{line}'"
            yield Check(wanted.name, "stop", message)


def _threads() -> Iterator[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    level = "ok" if threads <= (cores or 1) else "warn"
    hint = "" if level == "ok" else "; set OMP_NUM_THREADS to the number of cores"
    yield Check("threads", level, f"torch uses {threads}, the process may use {cores} cores{hint}")


def _devices() -> Iterator[Check]:
    import torch

    from posteriori.models.cpu.precision import gains_from_bfloat16
    from posteriori.models.device import fastest

    device = torch.device(fastest())
    name = platform.processor() or "cpu"
    if device.type != "cpu":
        name = torch.get_device_module(device).get_device_name()
    if device.type == "cpu" and torch.version.cuda is not None:
        message = f"cpu, though torch is built for CUDA {torch.version.cuda} and finds no GPU"
        yield Check("device", "warn", f"{message}; on a machine with one, check nvidia-smi")
    else:
        yield Check("device", "ok", f"{device.type} ({name})")
    torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device))
    faster = gains_from_bfloat16(10**9, device)
    words = "faster than float32" if faster else "slow here; dtype auto stays with float32"
    yield Check("bfloat16", "ok", words)


def _processes() -> Iterator[Check]:
    """Whether a launcher has started several, and whether they can reach each other."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        yield Check("processes", "info", "torch is built without distributed: one process only")
        return
    backends = [name for name in ("gloo", "nccl") if dist.is_backend_available(name)]
    backends_found = f"torch has {' and '.join(backends)}"
    there = launched()
    if there is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        places = torch.cuda.device_count() or cores
        more = f"; --processes {places} would use all" if places > 1 else ""
        yield Check("processes", "ok", f"1; {backends_found}{more}")
        return
    with together("posteriori doctor"):
        world = current()
        assert world is not None
        hosts = len({peer.host for peer in world.watch.peers})
    where = "this machine" if hosts == 1 else f"{hosts} machines"
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    message = (
        f"{there.size} on {where}, this is process {there.rank}, met at {place}; {backends_found}"
    )
    yield Check("processes", "ok", message)


def _bundled_models() -> Iterator[Check]:
    import torch

    from posteriori.models.load import load

    names = bundled_models()
    if not names:
        yield Check("bundled model", "stop", "none is there; install posteriori again")
    for name in names:
        start = time.perf_counter()
        model = load(name, device="cpu")
        model.sample([""], 1, max_new_tokens=4, generator=torch.Generator().manual_seed(0))
        seconds = time.perf_counter() - start
        parameters = sum(p.numel() for p in model.module.parameters())
        yield Check(f"model '{name}'", "ok", f"{parameters:,} parameters, ready in {seconds:.1f} s")


class Extra(NamedTuple):
    """A package that only some things need: its name, what for, and what installs it."""

    package: str
    use: str
    install: str


EXTRAS = (
    Extra("alt-profanity-check", "the classifier of `posteriori demo`", "posteriori[demo]"),
    Extra("tensorboard", 'fit.tracker = "tensorboard"', "posteriori[tensorboard]"),
    Extra("wandb", 'fit.tracker = "wandb"', "posteriori[wandb]"),
    Extra("trackio", 'fit.tracker = "trackio"', "posteriori[trackio]"),
    Extra("mlflow", 'fit.tracker = "mlflow"', "posteriori[mlflow]"),
    Extra("trl", "the callback for TRL's trainers", "trl"),
    Extra("gguf", "priors that are GGUF files", "gguf"),
    Extra("pyarrow", "draws in .parquet files", "pyarrow"),
    Extra("datasets", "preference pairs in .parquet files and data-set folders", "datasets"),
    Extra("scikit-learn", "likelihoods by a scikit-learn pipeline", "scikit-learn"),
    Extra("jsonschema", "constraints by a JSON Schema", "posteriori[constraints]"),
    Extra("llguidance", "constraints that choose next tokens", "posteriori[constraints]"),
    Extra("outlines-core", "JSON that is closed by the last token", "posteriori[constraints]"),
)


def _extras() -> Iterator[Check]:
    for package, use, install in EXTRAS:
        try:
            yield Check(package, "ok", f"{version(package)}, for {use}")
        except PackageNotFoundError:
            advice = f"not installed; only for {use}: pip install '{install}'"
            yield Check(package, "info", advice)


def _disk(folder: Path) -> Iterator[Check]:
    """Runs are written below the nearest directory that is there already."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        yield Check("output", "stop", f"'{there}' is a file; rename it, or choose --output-dir")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        message = f"'{there}' cannot be written; change its rights, or choose --output-dir"
        yield Check("output", "stop", message)
    free = shutil.disk_usage(there).free / 2**30
    level = "ok" if free >= _FREE_GIB else "warn"
    hint = "" if level == "ok" else "; a fit with checkpoints may not fit: free some, or choose "
    hint += "" if level == "ok" else "--output-dir on another disk"
    yield Check("disk", level, f"{free:.1f} GiB free in '{there}'{hint}")


_AGAIN = "install posteriori again"
_PARTS = (
    Part("versions", _versions, _AGAIN),
    Part("threads", _threads, _AGAIN),
    Part("device", _devices, "check the driver (nvidia-smi), or install torch for the CPU"),
    Part("processes", _processes, "start all of them with torchrun or accelerate launch"),
    Part("bundled models", _bundled_models, _AGAIN),
    Part("extras", _extras, _AGAIN),
)

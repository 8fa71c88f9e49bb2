"""`posteriori doctor`: does this machine have what the library needs?"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, NamedTuple

from rich.text import Text

from .bundled import bundled_models
from .options import AsJson
from .output import print_json, stdout, visible

_FREE_GIB = 2.0
"""A fit of a small model with its checkpoints needs about this much disk."""

_SIGNS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "stop": ("stop", "bold red")}


class Check(NamedTuple):
    """One line: what was looked at, how it stands (ok, warn, stop), and what to do about it."""

    name: str
    level: str
    message: str


def doctor(as_json: AsJson = False) -> int:
    """Check versions, threads, number formats, the bundled model, extras and disk space."""
    checks = [check for part in _PARTS for check in _safely(part)]
    if as_json:
        print_json([check._asdict() for check in checks])
    else:
        console = stdout()
        for check in checks:
            sign, style = _SIGNS[check.level]
            line = Text.assemble((f"{sign:<5}", style), f"{check.name}: {visible(check.message)}")
            console.print(line, soft_wrap=True)
    return 1 if any(check.level == "stop" for check in checks) else 0


def _safely(part: Callable[[], Iterator[Check]]) -> list[Check]:
    """A broken installation fails in ways of its own, and the other checks still have a say."""
    try:
        return list(part())
    except Exception as error:
        name = part.__name__.strip("_").replace("_", " ")
        return [Check(name, "stop", f"{type(error).__name__}: {error}")]


def _versions() -> Iterator[Check]:
    yield Check("python", "ok", platform.python_version())
    from packaging.requirements import Requirement

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
            yield Check(wanted.name, "stop", f"{found} is not {wanted.specifier}")


def _threads() -> Iterator[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    level = "ok" if threads <= (cores or 1) else "warn"
    hint = "" if level == "ok" else "; set OMP_NUM_THREADS to the number of cores"
    yield Check("threads", level, f"torch uses {threads}, the process may use {cores} cores{hint}")


def _devices() -> Iterator[Check]:
    import torch

    from ..models.precision import gains_from_bfloat16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu"
    yield Check("device", "ok", f"{device.type} ({name})")
    native = gains_from_bfloat16(10**9, device)
    words = "multiplied natively" if native else "slow here; dtype auto stays with float32"
    yield Check("bfloat16", "ok", words)


def _bundled_models() -> Iterator[Check]:
    import torch

    from ..models.load import load

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


def _extras() -> Iterator[Check]:
    for module, what, extra in (
        ("profanity_check", "the classifier of `posteriori demo`", "posteriori[demo]"),
        ("gguf", "GGUF files", "gguf"),
    ):
        there = importlib.util.find_spec(module) is not None
        message = "installed" if there else f"not installed; for {what}: pip install '{extra}'"
        yield Check(module, "ok" if there else "warn", message)


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(".").free / 2**30
    level = "ok" if free >= _FREE_GIB else "warn"
    hint = "" if level == "ok" else "; a fit with checkpoints may not fit here"
    yield Check("disk", level, f"{free:.1f} GiB free in this directory{hint}")


_PARTS: tuple[Callable[[], Iterator[Any]], ...] = (
    _versions,
    _threads,
    _devices,
    _bundled_models,
    _extras,
    _disk,
)

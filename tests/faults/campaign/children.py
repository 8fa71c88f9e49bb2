"""Forked children that can be killed, and small targets for them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import posteriori as po
from posteriori.errors import PosterioriError

ORACLE = Path(__file__).parents[2] / "data" / "oracle" / "case_1"
FINE, TYPED, RAW = 0, 3, 4
LONGEST = 120.0
"""Seconds after which a child counts as hung."""


def start(work: Callable[[], Any]) -> int:
    """A child that does `work` in silence: it exits with FINE, TYPED for an error of ours, RAW for
    another, whose traceback it prints."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = RAW
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = work() or FINE
    except PosterioriError:
        code = TYPED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def end_of(child: int) -> int:
    """Its exit code; -9 for one that was killed, and for one that hangs, which is killed."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def kill_after(child: int, seconds: float) -> bool:
    """Whether it was still there to be killed."""
    time.sleep(seconds)
    if os.waitpid(child, os.WNOHANG)[0]:
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def seconds_of(work: Callable[[], Any]) -> float:
    """How long a child takes that is left in peace."""
    began = time.monotonic()
    code = end_of(start(work))
    assert code == FINE, f"a run that nobody disturbs ends with {code}"
    return time.monotonic() - began


def count_a(completions: list[str], **_: Any) -> list[float]:
    return [float(text.count("a")) for text in completions]


def slow(completions: list[str], **_: Any) -> list[float]:
    """Most of a run's time goes into evidence, as with a judge."""
    time.sleep(0.01)
    return count_a(completions)


def target(fn: Callable[..., list[float]] = count_a, length: int = 4) -> po.Target:
    table = po.TabularLM.random(["<eos>", "a", "b"], length, ["p", "q"], seed=1)
    return po.Target(
        table, po.Reward(fn, beta=1.0, max_reward=float(length)), table.prompts, length
    )


PAIRS = [
    {"prompt": prompt, "chosen": f"{word} b", "rejected": f"{word} d"}
    for prompt in ("a b", "c", "d", "e a")
    for word in "abcde"
]


def digest(value: Any) -> str:
    """Of all bits of a value."""
    sha = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            sha.update(repr((part.dtype, part.shape)).encode())
            sha.update(part.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, dict):
            for key, each in part.items():
                sha.update(repr(key).encode())
                add(each)
        elif isinstance(part, list | tuple):
            for each in part:
                add(each)
        else:
            sha.update(repr(part).encode())

    add(value)
    return sha.hexdigest()


def folder_digest(folder: Path, *names: str) -> str:
    """Of the bytes of files."""
    return digest([(name, (folder / name).read_bytes()) for name in names])

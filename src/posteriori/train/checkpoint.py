"""Checkpoints: policy, optimiser, the objective's state, random states, in one atomic folder.

Each folder has the SHA-256 of its files, so that a damaged one is never taken for a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from posteriori.core.journal.files import flush, writing
from posteriori.core.journal.random_streams import Streams, put_streams
from posteriori.core.protocols import TrainableLM
from posteriori.core.types import Finding
from posteriori.distributed.exchange import by_first
from posteriori.distributed.sharding import alike, is_cut
from posteriori.errors import CheckpointError

from . import sharded_state

_PREFIX = "step-"
_NAME = re.compile(rf"{_PREFIX}\d{{8,}}")
_INCOMING = ".incoming-"
_ASIDE = ".damaged-"
_SUMS = "checksums.json"
_PARTS = "parts.pt"
_SHARDED_FILES = (_PARTS, "random.pt", "history.json", "state.json")
_FILES = (
    *("policy.safetensors", "optimizer.pt", "others.pt", "random.pt"),
    *("history.json", "state.json"),
)


class Running(NamedTuple):
    """What of a run a checkpoint holds; `others` is anything that `torch.save` writes as data,
    `history` anything that JSON does, and `run` says which run it is."""

    policy: TrainableLM
    optimizer: torch.optim.Optimizer
    others: dict[str, Any]
    streams: Streams
    history: Mapping[str, list[dict[str, Any]]]
    run: str


class Restored(NamedTuple):
    """What of a checkpoint is for others to put back."""

    step: int
    others: dict[str, Any]
    history: dict[str, list[dict[str, Any]]]


def save_checkpoint(folder: Path, step: int, running: Running, keep: int) -> Path:
    """Write `folder/step-N` for a run with N finished steps; older ones beyond `keep` go.

    The folder is written under another name, flushed to disk and then renamed, so a folder that
    has its name is complete. Raises `CheckpointError` where it cannot be written.
    """
    return _saved(folder, step, keep, lambda incoming: _write(incoming, step, running))


def save_sharded(folder: Path, step: int, running: Running, keep: int) -> Path:
    """The same of weights that are cut over processes, by all of them together."""
    final, incoming = folder / f"{_PREFIX}{step:08d}", folder / f"{_INCOMING}{step:08d}"
    if by_first(final.exists):
        return final
    cut: dict[str, Tensor] = {}
    parts = {
        "policy": running.policy.trained_state(),
        "optimizer": running.optimizer.state_dict(),
        "others": running.others,
    }
    kept = {name: sharded_state.taken_out(each, cut, name) for name, each in parts.items()}

    def begin() -> None:
        with writing("the checkpoint", final, _HINT):
            remove_unfinished(folder)
            incoming.mkdir(parents=True)

    def finish() -> None:
        _saved(folder, step, keep, lambda place: _write_parts(place, step, running, kept))

    try:
        by_first(begin)
        sharded_state.write(incoming / sharded_state.FOLDER, cut)
        by_first(finish)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    return final


_HINT = "make room; the checkpoint before it is whole, and the run resumes from there"


def _saved(folder: Path, step: int, keep: int, write: Callable[[Path], None]) -> Path:
    final = folder / f"{_PREFIX}{step:08d}"
    if final.exists():
        return final
    incoming = folder / f"{_INCOMING}{step:08d}"
    try:
        with writing("the checkpoint", final, _HINT):
            write(incoming)
            os.replace(incoming, final)
            flush(folder)
    except BaseException:
        # Half of it is of no use, and takes the room that is missing.
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    for old in _finished(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write(incoming: Path, step: int, running: Running) -> None:
    remove_unfinished(incoming.parent)
    incoming.mkdir(parents=True)
    state = {name: tensor.contiguous() for name, tensor in running.policy.trained_state().items()}
    save_file(state, incoming / "policy.safetensors")
    torch.save(running.optimizer.state_dict(), incoming / "optimizer.pt")
    torch.save(_interned(running.others), incoming / "others.pt")
    _write_rest(incoming, step, running)


def _write_parts(incoming: Path, step: int, running: Running, parts: dict[str, Any]) -> None:
    torch.save(_interned(parts), incoming / _PARTS)
    _write_rest(incoming, step, running)


def _write_rest(incoming: Path, step: int, running: Running) -> None:
    torch.save(running.streams, incoming / "random.pt")
    (incoming / "history.json").write_text(json.dumps(running.history), encoding="utf-8")
    about = json.dumps({"step": step, "run": running.run}) + "\n"
    (incoming / "state.json").write_text(about, encoding="utf-8")
    written = sorted(path for path in incoming.rglob("*") if path.is_file())
    sums = {path.relative_to(incoming).as_posix(): _sha256(path) for path in written}
    (incoming / _SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
    for place in (*written, incoming / _SUMS, *(each.parent for each in written), incoming):
        flush(place)


def _interned(value: Any) -> Any:
    """The same data with each string once: a pickle says whether two strings are one object, and
    a run that was resumed has other objects than one that was not."""
    if type(value) is dict:
        return {_interned(key): _interned(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_interned(each) for each in value)
    return sys.intern(value) if type(value) is str else value


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that died left half-written. Only for the process that holds the run's
    lock."""
    for dead in folder.glob(f"{_INCOMING}*"):
        shutil.rmtree(dead, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is there under its name, if there is one; it may be damaged."""
    finished = _finished(folder)
    return finished[-1] if finished else None


def load_newest(
    folder: Path, policy: TrainableLM, optimizer: torch.optim.Optimizer, run: str, most_steps: int
) -> tuple[Restored | None, list[Finding]]:
    """Put policy, optimiser and random states back from the newest checkpoint that is whole.

    One that is damaged is set aside under another name, with a finding, and the one before it is
    taken; None where none is whole. Raises `CheckpointError` for a whole one of another model.
    Of several processes the first one reads, and all have what it has read, however many there
    were when it was written.
    """
    cut = any(map(is_cut, policy.trained_state().values()))
    newest, found = by_first(lambda: _newest(folder, policy.device, run, most_steps, cut))
    if newest is None:
        return None, found
    step, history, parts, path = newest
    device = policy.device
    sharded: Mapping[str, Tensor] = {}
    if cut and (path / _PARTS).exists():
        sharded = sharded_state.read(path / sharded_state.FOLDER, cut=True)
    for name in ("policy", "optimizer", "others"):
        parts[name] = sharded_state.put_in(_on(parts[name], device), sharded)
    _put_back(path, parts, policy, optimizer)
    return Restored(step, parts["others"], history), found


def _on(value: Any, device: torch.device) -> Any:
    """Its tensors on the device: another process may have sent them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) is dict:
        return {key: _on(each, device) for key, each in value.items()}
    return (
        type(value)(_on(each, device) for each in value) if type(value) in (list, tuple) else value
    )


_Newest = tuple[int, dict[str, Any], dict[str, Any], Path]


def _newest(
    folder: Path, device: torch.device, run: str, most_steps: int, cut: bool
) -> tuple[_Newest | None, list[Finding]]:
    found: list[Finding] = []
    for path in sorted(folder.glob(f"{_PREFIX}*"), reverse=True):
        try:
            step, history = _check(path, run, most_steps)
            parts = _read(path, device, cut)
        except _DamagedError as damage:
            aside = path.with_name(f"{_ASIDE}{path.name}")
            _remove(aside)
            path.rename(aside)
            found.append(
                Finding(
                    "warn",
                    "damaged_checkpoint",
                    f"The checkpoint '{path.name}' is damaged: {damage}. It is set aside as "
                    f"'{aside.name}'.",
                    "The run goes on from the one before it, or from the start if there is none.",
                )
            )
            continue
        return (step, history, parts, path), found
    return None, found


class _DamagedError(Exception):
    """What is wrong with a checkpoint."""


def _check(path: Path, run: str, most_steps: int) -> tuple[int, dict[str, Any]]:
    """Its steps and history. Raises `_DamagedError` unless every file is what was written, and this
    run wrote it."""
    if not path.is_dir():
        raise _DamagedError("it is a file")
    try:
        sums = json.loads((path / _SUMS).read_bytes())
        files = _SHARDED_FILES if (path / _PARTS).exists() else _FILES
        for name in {*files, *sums}:
            if sums[name] != _sha256(path / name):
                raise _DamagedError(f"'{name}' is not as it was written")
        state = json.loads((path / "state.json").read_bytes())
        history = json.loads((path / "history.json").read_bytes())
        step, of_run = int(state["step"]), state["run"]
    except FileNotFoundError as error:
        raise _DamagedError(f"'{Path(error.filename).name}' is missing") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _DamagedError(f"it cannot be read ({type(error).__name__})") from error
    if path.name != f"{_PREFIX}{step:08d}" or not 0 <= step <= most_steps:
        raise _DamagedError(f"it holds {step} steps of a run of {most_steps}")
    if of_run != run:
        raise _DamagedError("another run wrote it")
    return step, history


def _read(path: Path, device: torch.device, cut: bool) -> dict[str, Any]:
    random = path / "random.pt"
    try:
        if (path / _PARTS).exists():
            parts = torch.load(path / _PARTS, weights_only=True, map_location=device)
            if not cut:
                found = sharded_state.read(path / sharded_state.FOLDER, cut=False)
                parts = sharded_state.put_in(parts, found)
            return {**parts, "random": torch.load(random, weights_only=True)}
        return {
            "policy": load_file(path / "policy.safetensors", device=str(device)),
            **{
                name: torch.load(path / f"{name}.pt", weights_only=True, map_location=device)
                for name in ("optimizer", "others")
            },
            "random": torch.load(random, weights_only=True),
        }
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        raise _DamagedError(f"it cannot be read ({type(error).__name__})") from error


def _put_back(
    path: Path, parts: dict[str, Any], policy: TrainableLM, optimizer: torch.optim.Optimizer
) -> None:
    _check_fits(path, policy.trained_state(), parts["policy"])
    try:
        optimizer.load_state_dict(_as_parameters(parts["optimizer"], optimizer))
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"the optimiser's state does not fit this policy: {error}",
            where=str(path),
            hint="resume with the same settings, or choose another output_dir",
        ) from error
    policy.load_trained_state(parts["policy"])
    put_streams(parts["random"])


def _as_parameters(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state, whole or cut as its parameters are: it may come from a run on more processes."""
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = {
        at: {
            name: alike(own[at], value) if getattr(value, "ndim", 0) and at < len(own) else value
            for name, value in each.items()
        }
        for at, each in state["state"].items()
    }
    return {**state, "state": found}


def _check_fits(path: Path, own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    odd = sorted(own.keys() ^ saved.keys())
    odd += [n for n in own if n in saved and own[n].shape != saved[n].shape]
    odd += [n for n in own if n in saved and own[n].dtype != saved[n].dtype]
    if odd:
        raise CheckpointError(
            f"the saved weights do not fit this model: '{odd[0]}' differs",
            where=str(path),
            hint="resume with the model that the run began with, or choose another output_dir",
        )


def _finished(folder: Path) -> list[Path]:
    found = folder.glob(f"{_PREFIX}*")
    return sorted(path for path in found if _NAME.fullmatch(path.name) and path.is_dir())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""One Ray actor: a process that does pieces of work, each the same whoever does it and when."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from posteriori.errors import DistributedError, PosterioriError

from .exchange import plain
from .ray_package import ray_module
from .sending import Receiver


class Piece(NamedTuple):
    """Rows `start` to `stop` of work `number`; `seed` is for users' functions that draw numbers."""

    number: int
    start: int
    stop: int
    seed: str


class Failed(NamedTuple):
    """An exception on its way to the program that asked."""

    error: Exception


class RayWorker:
    """Made by Ray, and again by Ray where its process has ended: it holds nothing but copies."""

    def __init__(self, threads: int, search_path: Sequence[str]) -> None:
        torch.set_num_threads(threads)
        sys.path += [place for place in search_path if place not in sys.path]
        self._receiver: Receiver | None = None

    def ready(self) -> bool:
        return True

    def run(self, at: int, piece: Piece, places: Mapping[int, Any]) -> tuple[int, Any]:
        """Which piece it is, and what the work returns for it, or `Failed`."""
        try:
            if self._receiver is None:
                self._receiver = Receiver(ray_module().get)
            work = self._receiver.receive(piece.number, places)
            _seed(f"{piece.seed}/{piece.start}")
            return at, plain(work(slice(piece.start, piece.stop)))
        except Exception as error:  # whatever it is, it goes to the program
            return at, Failed(_that_travels(error))


def _seed(name: str) -> None:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def _that_travels(error: Exception) -> Exception:
    """The error itself where it can be pickled and made again, else one with its text."""
    cloudpickle = ray_module("ray.cloudpickle")
    if isinstance(error, PosterioriError):
        # What caused it may hold anything, and its text is in the error.
        error.__cause__ = error.__context__ = None
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        return DistributedError(f"an actor failed: {type(error).__name__}: {error}")
    return error

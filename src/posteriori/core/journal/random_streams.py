"""The global random streams, as data: the loop has its own, but users' functions may draw from
these, on a GPU too."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

Streams = dict[str, Any]


def read_streams() -> Streams:
    """Where Python's, NumPy's and torch's streams are; plain values and tensors only."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.as_tensor(numpy["state"]["key"].astype(np.int64))
    return {
        "python": [version, list(words), gauss],
        "numpy": numpy,
        "torch": torch.get_rng_state(),
        "devices": _of_devices(),
    }


def put_streams(state: Streams) -> None:
    """Put them where `read_streams` found them."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    for kind, streams in state.get("devices", {}).items():
        _put_on_devices(kind, streams)


_KINDS = ("cuda", "xpu")


def _of_devices() -> dict[str, list[torch.Tensor]]:
    """One stream per device that this process sees, of each kind that it has used."""
    found: dict[str, list[torch.Tensor]] = {}
    for kind in _KINDS:
        module: Any = torch.get_device_module(kind)
        if module.is_available() and module.is_initialized():
            found[kind] = list(module.get_rng_state_all())
    return found


def _put_on_devices(kind: str, streams: list[torch.Tensor]) -> None:
    """On as many devices as there are here: a run may go on where there are others."""
    module: Any = torch.get_device_module(kind)
    if module.is_available():
        for at, stream in enumerate(streams[: module.device_count()]):
            module.set_rng_state(stream, at)

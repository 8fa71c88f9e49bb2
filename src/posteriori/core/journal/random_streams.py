"""The global random streams, as data: the loop has its own, but users' functions may draw from
these."""

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
    }


def put_streams(state: Streams) -> None:
    """Put them where `read_streams` found them."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"])

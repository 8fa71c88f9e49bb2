"""Random streams: each is named, and a function of the seed and its name alone.

A stream that is asked for by name (`generator(seed, "fit", step)`) does not depend on what was
drawn before it, so a resumed run needs no random state to go on where it stopped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a seed and a path of names."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the stream of that name."""
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def undisturbed() -> Iterator[None]:
    """The global streams (of Python, NumPy and torch, on every device) are afterwards where they
    were, whatever is drawn inside: by users' reward functions, say."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

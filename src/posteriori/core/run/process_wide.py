"""Work that changes settings of the whole process for a while, and whom that disturbs."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

_LOCK = threading.RLock()


@contextmanager
def one_at_a_time() -> Generator[None]:
    """One thread is within it at a time; it may enter again.

    While transformers loads a model, torch's default dtype and the functions of `torch.nn.init` are
    others in every thread. So two loads at once fail and leave them changed, and weights that are
    drawn beside a load are drawn otherwise.
    """
    with _LOCK:
        yield

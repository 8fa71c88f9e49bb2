"""Which exceptions mean that memory has run out."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from posteriori.errors import MemoryLimitError

_SAID = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Of Python, of torch's allocators on any device, or of a library below torch."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error).lower() for each in _SAID)


@contextmanager
def explained(doing: str, hint: str) -> Generator[None]:
    """Inside it, running out of memory is a `MemoryLimitError` in one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(f"memory ran out while {doing}", hint=hint) from error

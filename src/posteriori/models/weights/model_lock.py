"""One model under several threads: a thread that runs it, adapts it or reads its adapters holds its
lock.

A pass switches the adapter and replaces single modules' `forward` while it lasts, and PEFT changes
a model in place. The lock is held for one pass, never while other code is called.
"""

from __future__ import annotations

import threading
from typing import Any

from torch import nn

_LOCK = "_posteriori_lock"
"""Where a model keeps its lock."""


class ModelLock:
    """A lock that its thread may take again. A copy of a model has another one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()

    def __deepcopy__(self, _memo: dict[int, Any]) -> ModelLock:
        return ModelLock()

    def __reduce__(self) -> tuple[type[ModelLock], tuple[()]]:
        return ModelLock, ()


def lock_of(base: nn.Module) -> ModelLock:
    """That of the transformers model under all adapters."""
    return vars(base).setdefault(_LOCK, ModelLock())

"""A cache of what is computed from frozen weights, for as long as a run lasts.

A fit with LoRA multiplies with the same output head at every step. To lay the matrix out for the
sampler's product, and to round it for the gradient's, takes a twentieth of the step, for a result
that is the same each time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from torch import Tensor, nn

_Key = tuple[int, Hashable]


class WeightCache:
    """One for a model and the policies on its weights; empty but while a run keeps it open."""

    def __init__(self) -> None:
        self._kept: dict[_Key, tuple[Tensor, int, Tensor]] = {}
        self._runs = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[WeightCache], tuple[Any, ...]]:
        """A copy's weights lie elsewhere."""
        return WeightCache, ()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Within it each value is computed once, as long as its weights stay the same."""
        # Runs overlap (threads that train two policies of one prior): the last one clears it.
        with self._lock:
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    self._kept = {}

    def get(self, weight: Tensor, what: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """`make()`, which depends on `weight` and `what` alone; perhaps as it was made before.

        Kept is only what comes from a parameter that is not trained. One that is written to
        nevertheless counts its versions, and is worked out again.
        """
        frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
        if not (self._runs and frozen) or weight.is_inference():
            return make()
        key = (weight.data_ptr(), what)
        found = self._kept.get(key)
        if found is None or found[1] != weight._version:
            # The weight is kept as well, so that no other one can come to lie where it lies.
            found = self._kept[key] = (weight, weight._version, make())
        return found[2]

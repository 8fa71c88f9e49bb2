"""A cache of what is computed from frozen weights, for as long as a run lasts.

A fit with LoRA multiplies with the same output head at every step. To lay the matrix out for the
sampler's product, and to round it for the gradient's, takes a twentieth of the step, for a result
that is the same each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar

from torch import Tensor, nn

_Key = tuple[int, Hashable]
_kept: ContextVar[dict[_Key, tuple[Tensor, int, Tensor]] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def caching_frozen_weights() -> Iterator[None]:
    """Within it, `from_weight_cache` computes each value once, as long as its weights stay the
    same."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def from_weight_cache(weight: Tensor, what: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """`make()`, which depends on `weight` and `what` alone; within `caching_frozen_weights` perhaps
    as it was made before.

    Kept is only what comes from a parameter that is not trained. One that is written to
    nevertheless counts its versions, and is worked out again.
    """
    kept = _kept.get()
    frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
    if kept is None or not frozen or weight.is_inference():
        return make()
    key = (weight.data_ptr(), what)
    if key not in kept or kept[key][1] != weight._version:
        # The weight is kept as well, so that no other one can come to lie where it lies.
        kept[key] = (weight, weight._version, make())
    return kept[key][2]

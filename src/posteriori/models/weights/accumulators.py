"""The places where gradients of weights add up, made before threads may need them."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from posteriori.distributed.sharding import is_sharded

_KEPT: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def keep_accumulators(model: nn.Module) -> None:
    """Make the accumulator of every weight that is trained, and keep it while `model` lives.

    torch makes it at the first use of a weight and drops it with the last graph. Making it takes
    the weight's lock and then Python's, while a custom `autograd.Function` takes them in the other
    order: two threads that score one policy would wait for each other for ever. A view of the
    weight keeps it; a Python object of the accumulator itself would bring Python's lock back in.
    """
    if is_sharded(model):
        return
    with torch.enable_grad():
        views = [each.expand_as(each) for each in model.parameters() if each.requires_grad]
    with _LOCK:
        _KEPT[model] = views


def drop_accumulators(model: nn.Module) -> None:
    """Of weights that are about to be cut over processes: the views would keep the whole ones."""
    with _LOCK:
        _KEPT.pop(model, None)

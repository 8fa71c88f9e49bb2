"""What was found out about a model, beside it: nothing is written on an object of the user's."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_FACTS: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def facts_of(model: nn.Module) -> dict[Any, Any]:
    """They go with the model. To be forgotten (`clear`) when its modules change."""
    with _LOCK:
        return _FACTS.setdefault(model, {})


def share_facts(model: nn.Module, other: nn.Module) -> None:
    """What holds for `other` holds for `model`, which is made of the same layers."""
    facts = facts_of(other)
    with _LOCK:
        _FACTS[model] = facts

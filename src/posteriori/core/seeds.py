# pyright: reportUnknownMemberType=false
"""Random streams: each is named, and a function of the seed and its name alone.

A stream that is asked for by name (`generator(seed, "fit", step)`) does not depend on what was
drawn before it, so a resumed run needs no random state to go on where it stopped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .run.process_wide import one_at_a_time


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a seed and a path of names."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the stream of that name."""
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def undisturbed() -> Generator[None]:
    """The global streams (of Python, NumPy and torch, on every device) are afterwards where they
    were, whatever is drawn inside: by users' reward functions, say."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def drawing(seed: int) -> Generator[None]:
    """Within it this thread's weights are drawn as `torch.manual_seed(seed)` would have it.

    The global stream belongs to all threads, and another one may seed it or put it back in the
    middle; so what is drawn on the CPU comes from a generator of its own. No other thread loads a
    model meanwhile (`one_at_a_time`): that would change how weights are made in this one.
    """
    with one_at_a_time(), torch.random.fork_rng(devices=[]), _OwnStream(seed):
        torch.manual_seed(seed)
        yield


_DRAWS = (torch.rand, torch.randn, Tensor.uniform_, Tensor.normal_)
_INITIALISERS = {
    *("uniform_", "normal_", "trunc_normal_", "orthogonal_"),
    *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"),
}
"""Of `torch.nn.init`, known by their names: while a model is loaded, in whichever thread,
transformers has put functions of its own in their places."""


class _OwnStream(TorchFunctionMode):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        draws = func in _DRAWS or getattr(func, "__name__", "") in _INITIALISERS
        if draws and kwargs.get("generator") is None and _is_on_cpu(args, kwargs):
            kwargs["generator"] = self._generator
        return func(*args, **kwargs)


def _is_on_cpu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    tensor = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("tensor")
    device = tensor.device if isinstance(tensor, Tensor) else kwargs.get("device")
    return torch.device(device or torch.get_default_device()).type == "cpu"

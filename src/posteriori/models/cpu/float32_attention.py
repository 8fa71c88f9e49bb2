"""Attention whose backward pass is fast on the CPU.

torch's CPU kernel for attention is several times slower in bfloat16 than in float32 when it goes
backward over short sequences, and no faster forward. So where autocast would round the queries,
keys and values, they stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ATTENTION = torch.nn.functional.scaled_dot_product_attention


class Float32Attention(TorchFunctionMode):
    """Within it, attention of CPU tensors leaves an autocast to bfloat16."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not _ATTENTION or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            wide = [_wide(value) for value in args]
            # Rounded afterwards, as autocast's own output would be: the next layer expects it.
            out = func(*wide, **{name: _wide(value) for name, value in kwargs.items()})
            return out.to(torch.get_autocast_dtype("cpu"))


def _wide(value: Any) -> Any:
    rounded = isinstance(value, Tensor) and value.dtype == torch.bfloat16
    return value.float() if rounded and value.device.type == "cpu" else value

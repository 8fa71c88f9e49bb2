# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""Small operations on tensors, and those of torch whose annotations leave out what they return.

Type checkers then know what comes of them everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def ints(values_N: Tensor) -> list[int]:
    """The numbers of a tensor of integers, [N]."""
    numbers: list[int] = values_N.tolist()
    return numbers


def floats(values_N: Tensor) -> list[float]:
    """The numbers of a floating-point tensor, [N]."""
    numbers: list[float] = values_N.tolist()
    return numbers


def bools(values_N: Tensor) -> list[bool]:
    """The values of a tensor of booleans, [N]."""
    values: list[bool] = values_N.tolist()
    return values


def rows_of_ints(values_NL: Tensor) -> list[list[int]]:
    """The rows of a tensor of integers, [N, L]."""
    rows: list[list[int]] = values_NL.tolist()
    return rows


def as_array(values_N: Tensor) -> NDArray[np.float64]:
    """The same numbers for numpy, whose calls on few numbers cost a tenth of torch's; float64 on
    the CPU shares its memory."""
    if values_N.dtype is not torch.float64 or values_N.device.type != "cpu":
        values_N = values_N.cpu().double()
    array_N: NDArray[np.float64] = values_N.detach().numpy()
    return array_N


def distinct(values_N: Tensor) -> Tensor:
    """The distinct values, sorted."""
    values_V: Tensor = torch.unique(values_N)
    return values_V


def distinct_places(values_N: Tensor, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """The distinct values (along `dim`: slices), sorted, and which of them each one is, [N]."""
    found: tuple[Tensor, Tensor] = torch.unique(values_N, dim=dim, return_inverse=True)
    return found


def distinct_counts(values_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct values, sorted, which of them each one is [N], and how often each is there."""
    found: tuple[Tensor, Tensor, Tensor] = torch.unique(
        values_N, return_inverse=True, return_counts=True
    )
    return found


def split_by(values_N: Tensor, size_P: Tensor | Sequence[int]) -> tuple[Tensor, ...]:
    """Neighbouring parts of those sizes."""
    sizes = ints(size_P) if isinstance(size_P, Tensor) else list(size_P)
    parts: tuple[Tensor, ...] = values_N.split(sizes)
    return parts


def split_evenly(values_N: Tensor, size: int) -> tuple[Tensor, ...]:
    """Neighbouring parts of one size; the last one may be shorter."""
    parts: tuple[Tensor, ...] = values_N.split(size)
    return parts


def cat_padded(parts_NL: Sequence[Tensor]) -> Tensor:
    """Rows of several widths one after another, padded on the right with zeros; [N, L, ...]."""
    width = max(part.shape[1] for part in parts_NL)
    after = [0, 0] * (parts_NL[0].dim() - 2)
    return torch.cat(
        [torch.nn.functional.pad(part, (*after, 0, width - part.shape[1])) for part in parts_NL]
    )

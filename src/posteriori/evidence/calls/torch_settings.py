"""What a user's function may change in torch for the whole process, put back after its call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Gradients on or off, the default dtype and the default device are what they were.

    A function that leaves them changed would stop the training of the policy, or do it in another
    precision.
    """
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    device = torch.get_default_device()
    try:
        yield
    finally:
        if torch.is_grad_enabled() != gradients:
            torch.set_grad_enabled(gradients)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            # None rather than "cpu", which would be a device of its own to every call that follows.
            torch.set_default_device(None if device == torch.device("cpu") else device)

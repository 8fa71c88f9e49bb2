"""What the CPU is, where that decides how it multiplies fastest."""

from __future__ import annotations

import functools

import torch


@functools.cache
def is_amd() -> bool:
    """Whether an AMD made it."""
    return str(torch.cpu.get_capabilities().get("cpu_name", "")).startswith("AMD")

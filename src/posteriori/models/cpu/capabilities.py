"""What the CPU is, where that decides how it multiplies fastest."""

from __future__ import annotations

import functools

import torch


@functools.cache
def has_amds_avx512() -> bool:
    """Whether it is AMD's, from Zen 4 on. To an older torch, which does not tell, none is."""
    told = getattr(torch.cpu, "get_capabilities", dict)()
    return str(told.get("cpu_name", "")).startswith("AMD") and bool(told.get("avx512_f"))

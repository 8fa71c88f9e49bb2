"""What the CPU is, where that decides how it multiplies fastest."""

from __future__ import annotations

import functools

import torch


@functools.cache
def has_amds_avx512() -> bool:
    """Whether it is AMD's, from Zen 4 on. With an older torch, which does not report it, none
    is."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return str(capabilities.get("cpu_name", "")).startswith("AMD") and bool(
        capabilities.get("avx512_f")
    )

"""The device that a model runs on."""

from __future__ import annotations

import torch

from posteriori.distributed.environment import launched
from posteriori.errors import ConfigError, ModelError


def usable_device(name: str | torch.device | None) -> torch.device:
    """`name` as a device that this machine has; its GPU (of NVIDIA, AMD or Intel), if it has one,
    for None (of several processes each has a GPU of its own, as far as they go). Apple's has no
    float64, which log-probs are summed in, and is never chosen.

    Raises `ConfigError` for what is no device, and `ModelError` for one that is not here.
    """
    if name is None:
        kind = fastest()
        of_several = None if kind == "cpu" else launched()
        if of_several is None:
            return torch.device(kind)
        number = torch.get_device_module(kind).device_count()
        return torch.device(kind, of_several.local_rank % number)
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"'{name}' is no device", where="device", hint='write "cpu", "cuda" or "cuda:1"'
        ) from error
    if device.type == "meta":
        raise ConfigError(
            "a model on the device 'meta' has no weights", where="device", hint='write "cpu"'
        )
    try:
        torch.empty(1, device=device).add_(0).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"this machine has no device '{device}': {str(error).splitlines()[0]}",
            where="device",
            hint='write "cpu", or leave device out for what there is',
        ) from error
    return device


def fastest() -> str:
    """The kind of device that is taken where none is asked for."""
    if torch.cuda.is_available():
        return "cuda"
    return "xpu" if torch.xpu.is_available() else "cpu"

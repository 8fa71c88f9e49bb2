"""The device that a model runs on."""

from __future__ import annotations

import torch

from posteriori.distributed.environment import launched
from posteriori.errors import ConfigError, ModelError


def usable_device(name: str | torch.device | None) -> torch.device:
    """`name` as a device that this machine has; its GPU, if it has one, for None (of several
    processes each has a GPU of its own, as far as they go).

    Raises `ConfigError` for what is no device, and `ModelError` for one that is not here.
    """
    if name is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        of_several = launched()
        if of_several is None:
            return torch.device("cuda")
        return torch.device("cuda", of_several.local_rank % torch.cuda.device_count())
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

"""Weights that are cut over processes: FSDP2 (`torch.distributed.fsdp.fully_shard`).

Each process holds a part of every weight, of its gradient and of the optimiser's state, and gathers
a layer's weights for as long as it computes with them. How layers are grouped, when weights are let
go and whether they wait on the CPU is for accelerate's plugin to say, which reads what
`accelerate launch` was told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from posteriori.errors import ConfigError, DistributedError

from .world import current

_meshes: dict[str, Any] = {}


def launched_sharded() -> bool:
    """Whether `accelerate launch` was told to use FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shard(model: nn.Module, device: torch.device) -> None:
    """Cut the weights of `model` over all processes, in place, layer by layer.

    Raises `DistributedError` where there is one process, and `ConfigError` for settings of
    accelerate that are not FSDP2's.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    world = current()
    if world is None:
        raise DistributedError(
            'sharding="fsdp" cuts weights over processes, and there is one',
            hint="start several: posteriori fit --processes N, torchrun, or accelerate launch",
        )
    if isinstance(model, FSDPModule):
        return
    plugin, is_unit = _plugin(model)
    settings: dict[str, Any] = {
        "mesh": _mesh(device.type, world.size),
        "mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy(),
    }
    if plugin.cpu_offload:
        settings["offload_policy"] = plugin.cpu_offload
    for module in reversed(list(model.modules())[1:]):
        if is_unit(module):
            fully_shard(module, reshard_after_forward=plugin.reshard_after_forward, **settings)
    # The embeddings and the head, which may be one tensor, are let go after the backward pass.
    fully_shard(model, **settings)
    _sum_over_processes(model)


def _plugin(model: nn.Module) -> tuple[Any, Callable[[nn.Module], bool]]:
    """accelerate's settings, and which modules are gathered as one."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

    given: dict[str, Any] = {}
    if "FSDP_VERSION" not in os.environ:
        given["fsdp_version"] = 2
    if "FSDP_AUTO_WRAP_POLICY" not in os.environ:
        given["auto_wrap_policy"] = "transformer_based_wrap"
    try:
        plugin = FullyShardedDataParallelPlugin(**given)
        if plugin.fsdp_version != 2:
            raise ValueError("they ask for FSDP1")
        plugin.set_auto_wrap_policy(model)
        is_unit = fsdp2_prepare_auto_wrap_policy(plugin, model)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(
            f"accelerate's settings of FSDP do not go with this model: {error}",
            where="sharding",
            hint="accelerate launch --use_fsdp --fsdp_version 2, or leave its FSDP settings out",
        ) from error
    return plugin, is_unit or (lambda _: False)


def _mesh(kind: str, size: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    if kind not in _meshes:
        _meshes[kind] = init_device_mesh(kind, (size,))
    return _meshes[kind]


def is_sharded(model: nn.Module) -> bool:
    """Whether any weight is cut, here or by the program that made the model."""
    return any(is_cut(parameter) for parameter in model.parameters())


def is_cut(tensor: Tensor) -> bool:
    # By its class's name: importing torch's own takes a third of a second.
    return type(tensor.data).__name__ == "DTensor"


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; of one that is cut the processes ask together."""
    return cast(Any, tensor).full_tensor() if is_cut(tensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return cast(Any, tensor).to_local() if is_cut(tensor) else tensor


def cut_like_all(size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that are cut as FSDP2 cuts weights. Raises `DistributedError` where nothing is."""
    from torch.distributed.tensor import Shard, zeros

    if not _meshes:
        raise DistributedError("no weights are cut over the processes", where="sharding")
    mesh = next(iter(_meshes.values()))
    return zeros(*size, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])


def alike(own: Tensor, value: Tensor) -> Tensor:
    """`value`, whole or cut, as `own` is."""
    if is_cut(own) == is_cut(value):
        return value
    if not is_cut(own):
        return whole(value)
    new = torch.zeros_like(own)
    put(new, value)
    return new


def put(tensor: Tensor, value: Tensor) -> None:
    """`value`, whole or cut alike, into `tensor`, in place."""
    if is_cut(tensor) and not is_cut(value):
        from torch.distributed.tensor import distribute_tensor

        own: Any = tensor
        value = value.to(own.device)
        value = distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
    tensor.copy_(value)


def _sum_over_processes(model: nn.Module) -> None:
    """Gradients become sums over processes, and not means."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if not isinstance(module, FSDPModule):
            continue
        module.set_gradient_divide_factor(1.0)
        # A plain sum: gloo knows no other.
        module.set_force_sum_reduction_for_comms(True)
        # An expert that no row of this process came to has a gradient elsewhere.
        also_unused = getattr(module, "set_reduce_scatter_unused_params", None)
        if also_unused is not None:
            also_unused(True, recurse=False)

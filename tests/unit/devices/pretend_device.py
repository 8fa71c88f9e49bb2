"""A device that is the CPU, and that torch takes for another one: a place to find tensors that were
made on the wrong device, on a machine without a GPU.

As on a GPU, an operation on tensors of both places fails (numbers of no dimension and positions by
which a tensor there is indexed excepted), and so does NumPy on a tensor there. Unlike torch's fake
tensors these have values, so a whole run goes through, and its numbers are those of the CPU.

It is registered with torch for the life of the process: for processes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class _Backend:
    """What `torch.pretend` has: one device, whose random stream nobody draws from."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.zeros(8, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        pass


_setup_privateuseone_for_python_backend("pretend", backend_module=_Backend())
DEVICE = torch.device("pretend:0")
_CPU = torch.device("cpu")
_INDEXING = ("index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index")
_MOVING = ("to", "_to_copy", "copy_")
_MAKING = (torch.tensor, torch.as_tensor, torch.asarray)


class WrongDevice(AssertionError):
    """An operation that a GPU would refuse."""


class There(Tensor):
    """A tensor on the pretended device; `here` is the one that computes."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        return Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here})"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    # A wrapper of an inference tensor has no versions, which views need outside.
    with torch.inference_mode(False), torch.no_grad():
        return _computed(func, list(args), dict(kwargs))


def _computed(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, There)]
    _check(name, args, tensors, there)
    device = _named_device(func, args, kwargs)
    if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        device = args[1].device
    out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if not func._schema.returns:
        return None
    if name == "copy_" or (name.endswith("_") and func._schema.is_mutable):
        return args[0]
    on_cpu = device is not None and device.type == "cpu"
    if on_cpu or not (there or (device is not None and device.type == DEVICE.type)):
        return out
    # What an operation returns as it was given stays the same object.
    same = {id(each.here): each for each in there}

    def on_device(each: Any) -> Any:
        if not isinstance(each, Tensor):
            return each
        return same[id(each)] if id(each) in same else There(each)

    return tree_map(on_device, out)


def _named_device(func: Any, args: list[Any], kwargs: dict[str, Any]) -> torch.device | None:
    """The device that the operation is to make its result on, which is replaced by the CPU."""
    names = [each.name for each in func._schema.arguments]
    if "device" not in names:
        return None
    at = names.index("device")
    holder, key = (args, at) if at < len(args) else (kwargs, "device")
    found = args[at] if at < len(args) else kwargs.get("device")
    if found is None:
        return None
    holder[key] = _CPU
    return torch.device(found)


def _check(name: str, args: list[Any], tensors: list[Tensor], there: list[There]) -> None:
    if not there or name in _MOVING:
        return
    if name in _INDEXING:
        # Positions may be on the CPU, values may not; and what is on the CPU has all of it there.
        values = args[2:3] if name != "index" else []
        wrong = not isinstance(args[0], There) or any(
            isinstance(each, Tensor) and not isinstance(each, There) and each.dim()
            for each in values
        )
    else:
        wrong = any(not isinstance(each, There) and each.dim() for each in tensors)
    if wrong:
        shapes = [(each.device.type, tuple(each.shape)) for each in tensors]
        raise WrongDevice(f"{name} of tensors on two devices: {shapes}")


def _here(value: Any) -> Any:
    return value.here if isinstance(value, There) else value


class _Operations(TorchDispatchMode):
    """What is made there, out of no tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What does not come as operations: tensors out of lists, and lists and arrays out of them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in _MAKING and device is not None and torch.device(device).type == DEVICE.type:
            others = {key: value for key, value in kwargs.items() if key != "device"}
            return func(*args, **others).to(device)
        if args and isinstance(args[0], There):
            if func is Tensor.tolist:
                return args[0].cpu().tolist()
            if func is Tensor.numpy:
                raise WrongDevice("NumPy of a tensor on the device")
        return func(*args, **kwargs)


_LIBRARY = torch.library.Library("aten", "IMPL")


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return There(torch.empty_strided(size, stride, dtype=dtype or torch.float32))


def _empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return There(torch.empty(size, dtype=dtype or torch.float32))


# Asked for from within torch, where no mode sees them.
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")


@contextmanager
def pretended() -> Iterator[None]:
    """Inside, tensors can be made on `DEVICE`."""
    with _Functions(), _Operations():
        yield

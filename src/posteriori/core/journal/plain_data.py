"""Values of this library as plain data with tensors, which a file can hold without running code."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.types import Cost, Draws, Estimate, Finding
from posteriori.data.plain_values import is_list, is_mapping

ClassT = TypeVar("ClassT", bound=type)
Decode = Callable[[list[list[int]]], list[str]]

_CLASSES: dict[str, type] = {}
_PLAIN = (str, int, float, bool, bytes, type(None))


class NotPlainError(Exception):
    """A value that is not made of tensors, plain values and the classes that are known here."""


class DamagedError(Exception):
    """A record that is not as it was written."""


def storable(cls: ClassT) -> ClassT:
    """A dataclass whose instances a record may hold; what it holds has to be storable too."""
    _CLASSES[cls.__name__] = cls
    return cls


for _class in (Completions, Cost, Draws, Estimate, Finding):
    storable(_class)


def to_bytes(value: Any) -> bytes:
    """The value behind the SHA-256 of its bytes. Raises `NotPlainError`."""
    buffer = io.BytesIO()
    torch.save(_packed(value), buffer)
    data = buffer.getvalue()
    return hashlib.sha256(data).digest() + data


def from_bytes(data: bytes, decode: Decode | None) -> Any:
    """The value again; completions get `decode`. Raises `DamagedError`."""
    checksum, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != checksum:
        raise DamagedError
    try:
        return _unpacked(torch.load(io.BytesIO(body), weights_only=True), decode)
    except Exception as error:  # of another version, or for a device that is not here
        raise DamagedError from error


def _packed(value: Any) -> Any:
    kind: type[Any] = value.__class__
    if kind in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return _alone(value)
    if kind in (list, tuple):
        return [kind.__name__, *(_packed(each) for each in value)]
    if is_mapping(value):
        return ["dict", *([_packed(key), _packed(each)] for key, each in value.items())]
    if _CLASSES.get(kind.__name__) is kind:
        held = {f.name: value.__dict__[f.name] for f in fields(value) if f.name != "decode"}
        return ["class", kind.__name__, _packed(held)]
    raise NotPlainError(kind.__name__)


def _alone(tensor: Tensor) -> Tensor:
    """Without the rest of the storage that it may be a view of."""
    tensor = tensor.detach()
    size = tensor.numel() * tensor.element_size()
    return tensor if tensor.untyped_storage().nbytes() == size else tensor.clone()


def _unpacked(value: Any, decode: Decode | None) -> Any:
    if not is_list(value):
        return value
    kind, *rest = value
    if kind == "class":
        name, held = rest
        found = _unpacked(held, decode)
        if _CLASSES[name] is Completions:
            found["decode"] = decode
        return _CLASSES[name](**found)
    if kind == "dict":
        return {_unpacked(key, decode): _unpacked(each, decode) for key, each in rest}
    each = [_unpacked(item, decode) for item in rest]
    return tuple(each) if kind == "tuple" else each

"""Work on its way to another process: what is large goes once, and work refers to it by number.

A piece of work is a closure, and holds the model and the functions that it runs. Pickled whole, a
model would travel with each of a thousand pieces.
"""

from __future__ import annotations

import io
import itertools
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from posteriori.errors import DistributedError

from .executor import SentOnce
from .ray_package import ray_module

_USERS_MODULES = "_posteriori_user_"
"""Modules that were read from a file beside a config: they travel whole, since no other process
could import them."""


_NUMBERS = itertools.count()
"""Of objects of all senders, for a receiver may hear several."""


class Sender:
    """Puts objects where others find them, by `put`; `places` says where, by their numbers."""

    def __init__(self, put: Callable[[bytes], Any]) -> None:
        self._put = put
        self._numbers: dict[int, int] = {}
        # A number stands for an object only as long as no other one can come to lie there.
        self._held: list[object] = []
        self.places: dict[int, Any] = {}

    def send(self, value: Any) -> int:
        """Its number; `forget` it when the work is done. Raises `DistributedError` for what cannot
        be pickled."""
        number = next(_NUMBERS)
        try:
            data = self._pickled(value)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            raise DistributedError(
                f"the work cannot be sent to another process: {type(error).__name__}: {error}",
                hint="leave out of the reward function, or the model, what cannot be pickled: open "
                "files, locks, connections",
            ) from error
        self.places[number] = self._put(data)
        return number

    def forget(self, number: int) -> None:
        del self.places[number]

    def _number_of(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = self.send(value)
            self._held.append(value)
        return number

    def _pickled(self, value: Any) -> bytes:
        cloudpickle = ray_module("ray.cloudpickle")
        for name, module in list(sys.modules.items()):
            if name.startswith(_USERS_MODULES):
                cloudpickle.register_pickle_by_value(module)

        # A module goes with the modules in it.
        kinds = SentOnce if isinstance(value, nn.Module) else SentOnce | nn.Module

        sender = self

        class Pickler(cloudpickle.Pickler):
            def persistent_id(self, obj: Any) -> int | None:
                large = isinstance(obj, kinds) and obj is not value
                return sender._number_of(obj) if large else None

        file = io.BytesIO()
        Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        return file.getvalue()


class Receiver:
    """The objects that `places` lead to, each fetched and made once."""

    def __init__(self, get: Callable[[Any], bytes]) -> None:
        self._get = get
        self._made: dict[int, Any] = {}

    def receive(self, number: int, places: Mapping[int, Any]) -> Any:
        """The object of that number. What has no place any more is dropped."""
        for gone in self._made.keys() - places.keys():
            del self._made[gone]
        return self._object(number, places)

    def _object(self, number: int, places: Mapping[int, Any]) -> Any:
        if number not in self._made:
            outer = self

            class Unpickler(pickle.Unpickler):
                def persistent_load(self, pid: int) -> Any:
                    return outer._object(pid, places)

            self._made[number] = Unpickler(io.BytesIO(self._get(places[number]))).load()
        return self._made[number]

"""Passes through sharded models while processes do different shares of a piece of work.

Every pass through a sharded model gathers its weights from all processes, so all have to make as
many passes, in the same order; and a share has its own number of micro-batches and of tokens to
decode. So before each pass (and before each backward pass) every process says which one it is about
to make, or that it has done its share. The first of them in a fixed order is made by all: by those
that are about to make it with their rows, and by the others with a single token whose result is
dropped. That costs one number per pass and process, beside which the gathered weights are large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from posteriori.errors import DistributedError

from .world import Leaving, World, told_of

_BACKWARD = 2**40
_DONE = 2**60


class ShardedModel(Protocol):
    """Something that can make a pass of no consequence."""

    def idle_pass(self) -> Tensor:
        """The outputs of one token."""
        ...


_models: WeakValueDictionary[int, Any] = WeakValueDictionary()
_joined = 0
_pace: _Pace | None = None


def join(model: ShardedModel) -> int:
    """A number for a sharded model. All processes join their models in the same order."""
    global _joined
    _models[_joined] = model
    _joined += 1
    return _joined - 1


@contextmanager
def kept(world: World) -> Iterator[None]:
    """Within it a share is done; at its end all others have done theirs, where any model is
    sharded."""
    global _pace
    if not _joined:
        yield
        return
    _pace = _Pace(world)
    try:
        yield
        _pace.finish()
    finally:
        _pace = None


@contextmanager
def turn(number: int | None) -> Iterator[None]:
    """Around one pass of the model that has joined as `number` (None: it is not sharded)."""
    if _pace is None or number is None or _pace.is_idling:
        yield
        return
    _pace.reach(2 * number + torch.is_grad_enabled())
    with _pace.whole():
        yield


def backward(loss: Tensor, plain: Callable[[Tensor], None]) -> None:
    """`plain(loss)`; beside it, what other processes' passes have left here to go back through."""
    if _pace is None:
        plain(loss)
        return
    _pace.reach(_BACKWARD)
    with _pace.whole():
        _pace.go_back([loss], [None])


class _Pace:
    """What this process has been through in the share that it is doing."""

    def __init__(self, world: World) -> None:
        self.world, self.is_idling = world, False
        self._pending: list[Tensor] = []

    def reach(self, wanted: int) -> None:
        """Returns when it is the turn of `wanted` in all processes."""
        while (agreed := self._agreed(wanted)) != wanted:
            self._idle(agreed)

    def finish(self) -> None:
        self.reach(_DONE)

    def go_back(self, losses: list[Tensor], weights: list[Tensor | None]) -> None:
        pending, self._pending = self._pending, []
        zeros = [torch.zeros_like(each) for each in pending]
        torch.autograd.backward([*losses, *pending], [*weights, *zeros])

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A pass that fails midway leaves the others waiting in it, so this process has to end."""
        try:
            yield
        except Exception as error:
            world = self.world
            world.broken = world.watch.who_died() or told_of(
                world.rank, world.size, f"{type(error).__name__}: {error}"
            )
            raise DistributedError(
                f"a pass through a sharded model failed: {world.broken}",
                hint="start all processes again; if memory ran out, with a lower memory_gib",
            ) from error

    def _agreed(self, wanted: int) -> int:
        said = self.world.exchange(wanted)
        for rank, each in enumerate(said):
            if isinstance(each, Leaving):
                why = each.why or "its program ended the call before the others did"
                self.world.broken = told_of(rank, self.world.size, why)
                raise DistributedError(self.world.broken, hint="start all processes again")
        return min(said)

    def _idle(self, agreed: int) -> None:
        self.is_idling = True
        try:
            with self.whole():
                if agreed == _BACKWARD:
                    self.go_back([], [])
                    return
                number, with_gradient = divmod(agreed, 2)
                with torch.set_grad_enabled(bool(with_gradient)):
                    out = _models[number].idle_pass()
                if with_gradient:
                    self._pending.append(out)
        finally:
            self.is_idling = False

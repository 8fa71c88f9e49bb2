"""Work in shares: each process does its own, and all have all results.

Inside `world.together`, and where there is an executor (Ray's actors). Elsewhere the work is just
done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from posteriori.errors import ConfigError, DistributedError, PosterioriError

from . import pace
from .executor import executor
from .sharding import is_cut
from .shares import shares
from .world import Leaving, World, alone, current, told_of

T = TypeVar("T")

_BUCKET = 2**24
"""Numbers of gradients that are summed at once."""


def is_shared_out() -> bool:
    """Whether `by_rows` does less than the whole here."""
    return current() is not None or executor() is not None


def by_rows(
    number: int, work: Callable[[slice], T], weights: Sequence[float] | None = None
) -> list[T]:
    """What `work` returns for each share of `number` rows, in their order; without empty ones.

    `weights` are what each row costs, where that is known; an executor cuts rows by their number.
    Tensors come back on the CPU where they came from elsewhere, and without gradient.
    """
    actors = executor()
    if actors is not None and number:
        return actors.map(number, work)
    world = current()
    if world is None or number == 0:
        return [work(slice(0, number))]
    mine = shares(number, world.size, weights)[world.rank]
    parts = gathered(lambda: work(mine) if mine.stop > mine.start else None)
    return [part for part in parts if part is not None]


def gathered(work: Callable[[], T]) -> list[T]:
    """What `work` returns in each process, by rank.

    Where it raises in one, all raise: that one its own error, the others the same where it is one
    of the library's (or out of memory), and `DistributedError` for any other.
    """
    world = current()
    if world is None:
        return [work()]
    mine: Exception | None = None
    value = None
    with alone(), pace.kept(world):
        try:
            value = plain(work())
        except Exception as error:
            mine = error
    outcomes = world.exchange(value if mine is None else _Failed(mine))
    _raise_any(world, outcomes, mine)
    return outcomes


def all_are_here(what: str) -> bool:
    """Whether every process asks this at the same time: after an error that all have met. Where one
    is elsewhere it learns that `what` has ended this one."""
    world = current()
    if world is None:
        return True
    if world.broken:
        return False
    said = world.exchange(Leaving(what, True))
    if all(isinstance(each, Leaving) for each in said):
        return True
    world.broken = told_of(world.rank, world.size, what)
    return False


def by_first(work: Callable[[], T]) -> T:
    """What `work` returns in the first process, in all: a decision, or what only it may do."""
    world = current()
    if world is None:
        return work()
    return gathered(lambda: work() if world.rank == 0 else None)[0]  # pyright: ignore


def agree(where: str, values_here: Callable[[], Mapping[str, Any]]) -> None:
    """Raise `ConfigError` in all processes where one has other values, before anything is done."""
    world = current()
    if world is None:
        return
    values = values_here()
    for rank, others in enumerate(gathered(lambda: dict(values))):
        for key in {**values, **others}:
            first, other = repr(values.get(key)), repr(others.get(key))
            if first != other:
                raise ConfigError(
                    f"the processes differ in {key}: {other[:60]} in process {rank} of "
                    f"{world.size}, and {first[:60]} in process {world.rank}",
                    where=where,
                    hint="run the same program with the same data in every process",
                )


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Each parameter's gradient becomes the sum of all processes' (none where none has any).

    By hand and not by DDP: a step is many micro-batches of different sizes, objectives have
    parameters of their own that no module's forward touches, and the sum is wanted once per step.
    Gradients of weights that are cut over processes are sums already.
    """
    world = current()
    if world is None:
        return
    import torch.distributed as dist

    parameters = [parameter for parameter in parameters if not is_cut(parameter)]
    if not parameters:
        return
    has_P = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    world.guarded(lambda: dist.all_reduce(has_P, dist.ReduceOp.MAX, group=world.group))
    held = [p for p, has in zip(parameters, has_P.tolist(), strict=True) if has]
    for bucket in _buckets(held):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        group = world.group if flat.device.type == "cpu" else None
        world.guarded(lambda flat=flat, group=group: dist.all_reduce(flat, group=group))
        parts = flat.split([grad.numel() for grad in grads])
        for parameter, grad, part in zip(bucket, grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
            parameter.grad = grad


def _buckets(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one kind, so many numbers together."""
    found: list[list[Tensor]] = []
    kind, room = None, 0
    for each in parameters:
        if (each.dtype, each.device) != kind or each.numel() > room:
            found.append([])
            kind, room = (each.dtype, each.device), _BUCKET
        found[-1].append(each)
        room -= each.numel()
    return found


class _Failed:
    """An exception on its way to the other processes; `known` where it can be raised there too."""

    def __init__(self, error: Exception) -> None:
        self.text = f"{type(error).__name__}: {error}"
        self.memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and "alloc" in str(error).lower()
        )
        self.known = error if isinstance(error, PosterioriError) else None

    def error(self, rank: int, size: int) -> Exception:
        if self.memory:
            return MemoryError(f"out of memory in process {rank} of {size}: {self.text}")
        return self.known or DistributedError(
            told_of(rank, size, self.text), hint="that process prints the error in full"
        )


def _raise_any(world: World, outcomes: list[Any], mine: Exception | None) -> None:
    left = [rank for rank, each in enumerate(outcomes) if isinstance(each, Leaving)]
    if left:
        why = outcomes[left[0]].why or "its program ended the call before the others did"
        world.broken = told_of(left[0], world.size, why)
        raise DistributedError(world.broken, hint="start all processes again") from mine
    failed = [rank for rank, each in enumerate(outcomes) if isinstance(each, _Failed)]
    if not failed:
        return
    # Out of memory may be survived, so anything else comes first.
    chosen = min(failed, key=lambda rank: (outcomes[rank].memory, rank))
    if mine is not None and outcomes[world.rank].memory == outcomes[chosen].memory:
        raise mine
    raise outcomes[chosen].error(chosen, world.size) from mine


def plain(value: Any) -> Any:
    """With tensors that can be sent: on the CPU, and without what they are views of."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        own = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if own else value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(plain(each) for each in value))
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    if type(value) is dict:
        return {key: plain(each) for key, each in value.items()}
    return value

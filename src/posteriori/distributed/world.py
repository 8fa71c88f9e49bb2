"""The processes that work together, and whether they do so now.

`together` is what every verb (`fit`, `evaluate`, `sample`, `frontier`) runs in. Inside it the
functions of `exchange` cut work into shares; in `alone`, where a share is done, and outside of
verbs they do all of it here. All processes call the same verbs in the same order, as the same
program does.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from posteriori.errors import ConfigError, DistributedError

from .environment import launched
from .executor import executor
from .joining import first_line, join_group
from .watch import Peer, Watch, this_process

_PATIENCE = timedelta(days=30)
"""How long an exchange may take: a share may hold hours of a slow judge, and a process that has
died is noticed otherwise."""


class World:
    """This process among all: its rank, their number, and the means to exchange objects."""

    def __init__(self, rank: int, size: int) -> None:
        import torch.distributed as dist

        self.rank, self.size = rank, size
        # Objects and CPU tensors go by gloo, whatever the gradients go by.
        self.group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self.broken = ""
        peers: list[Any] = [None] * size
        dist.all_gather_object(peers, this_process(), group=self.group)
        self.watch = Watch(rank, [Peer(*each) for each in peers], self._share_port)

    def exchange(self, value: Any) -> list[Any]:
        """What every process gave, by rank."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        self.guarded(lambda: dist.all_gather_object(found, value, group=self.group))
        return found

    def guarded(self, communicate: Callable[[], Any]) -> None:
        """Raises `DistributedError` where it fails, which names the process that has ended."""
        if self.broken:
            raise DistributedError(self.broken, hint="start all processes again")
        try:
            communicate()
        except RuntimeError as error:
            self.broken = (
                self.watch.who_died() or f"the processes lost each other: {first_line(error)}"
            )
            raise DistributedError(self.broken, hint="start all processes again") from error

    def leave(self, error: BaseException | None) -> None:
        """Report to the others that the verb is over here, and wait for theirs."""
        if self.broken:
            return
        if error is not None and not isinstance(error, Exception):
            # An interrupt: this process does not wait. The others notice when this process ends.
            self.broken = f"process {self.rank} was interrupted"
            return
        said = "" if error is None else f"{type(error).__name__}: {error}"
        try:
            ends = self.exchange(Leaving(said, error is not None))
        except DistributedError:
            if error is None:
                raise
            return  # what went wrong here comes first
        odd = [r for r, each in enumerate(ends) if not isinstance(each, Leaving)]
        failed = [r for r, each in enumerate(ends) if isinstance(each, Leaving) and each.failed]
        if failed and (odd or len(failed) < self.size):
            self.broken = told_of(failed[0], self.size, ends[failed[0]].why)
            if error is None:
                raise DistributedError(self.broken, hint="start all processes again")

    def _share_port(self, port: int | None) -> int:
        found = self.exchange(port)
        return next(each for each in found if each is not None)


class Leaving:
    """What a process says instead of a result, when its verb is over."""

    def __init__(self, why: str, failed: bool) -> None:
        self.why, self.failed = why, failed


def told_of(rank: int, size: int, why: str) -> str:
    return f"process {rank} of {size} stopped: {why}"


_world: World | None = None
_verbs = 0
_alone = 0


def joined() -> World | None:
    """The world, once a verb has joined it."""
    return _world


def current() -> World | None:
    """The world, inside a verb and outside of `alone`."""
    return _world if _verbs and not _alone else None


def is_first() -> bool:
    """Whether this process writes files and shows progress: the first of all, or the only one."""
    if _world is not None:
        return _world.rank == 0
    found = launched()
    return found is None or found.rank == 0


def sharing() -> int:
    """Of how many processes this one is doing a share now; 1 where it does the whole."""
    return _world.size if _world is not None and _verbs and _alone else 1


def refuse_several(what: str, instead: str) -> None:
    """Raise `DistributedError` where several processes work together: each would do it whole, or
    this one would with actors that stand idle."""
    if executor() is not None:
        raise DistributedError(
            f"{what} is not shared out, and the actors would have nothing to do",
            hint=f"use {instead}, or leave out Ray",
        )
    world = current()
    if world is not None:
        raise DistributedError(
            f"{what} is not shared out, and each of {world.size} processes would do all of it",
            hint=f"use {instead}, or run one process",
        )


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


@contextmanager
def together(verb: str, like: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Inside, all launched processes do `verb` together; nothing changes where there is one.

    `like` describes the call: raises `ConfigError` on all of them where it is not the same
    everywhere, and `DistributedError` where one of them fails alone or ends.
    """
    global _verbs
    if _verbs or launched() is None:
        yield
        return
    world = _join()
    if world.broken:
        raise DistributedError(world.broken, where=verb, hint="start all processes again")
    _verbs += 1
    failure: BaseException | None = None
    try:
        with world.watch.on():
            try:
                _check_alike(world, verb, like)
                yield
            except BaseException as error:
                failure = error
                raise
            finally:
                # Whatever is raised here says more than an interrupt by the watch does.
                world.leave(failure)
    except KeyboardInterrupt as error:
        dead = world.watch.found
        if not dead:
            raise
        world.broken = dead
        raise DistributedError(dead, where=verb, hint="start all processes again") from error
    finally:
        _verbs -= 1


def _check_alike(world: World, verb: str, like: Callable[[], str]) -> None:
    try:
        mine = f"{verb}({like()})"
    except Exception as error:
        mine = f"{verb}({type(error).__name__}: {error})"
    calls = world.exchange(mine)
    other = next((rank for rank, each in enumerate(calls) if each != calls[0]), None)
    if other is not None:
        raise ConfigError(
            f"process {other} of {world.size} was not called as process 0 was: "
            f"{_difference(calls[0], calls[other])}",
            where=verb,
            hint="run the same program with the same data in every process",
        )


def _difference(first: str, other: str) -> str:
    """The first part that differs, of both."""
    parts = zip(first.split("\n"), other.split("\n"), strict=False)
    return next(
        (f"{b.strip()[:80]!r}, and there {a.strip()[:80]!r}" for a, b in parts if a != b),
        "it has other arguments",
    )


def _join() -> World:
    """Join the other processes, once for the life of this one."""
    global _world
    if _world is not None:
        return _world
    import torch.distributed as dist

    found = launched()
    assert found is not None
    if not dist.is_initialized():
        join_group(_backend(found.local_rank), found)
        atexit.register(_part)
    _world = World(dist.get_rank(), dist.get_world_size())
    return _world


def _backend(local_rank: int) -> str:
    """Gloo on the CPU, and beside it what the kind of GPU that is here has of its own."""
    import torch
    import torch.distributed as dist

    for kind in ("cuda", "xpu"):
        module: Any = torch.get_device_module(kind)
        if module.is_available():
            module.set_device(local_rank % module.device_count())
            return f"cpu:gloo,{kind}:{dist.get_default_backend_for_device(kind)}"
    return "gloo"


def _part() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()

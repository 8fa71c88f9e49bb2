"""Parts of a sampler's work that are whole by themselves, each done by one of several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from posteriori.core.journal.plain_data import Decode, from_bytes, to_bytes
from posteriori.distributed.exchange import gathered
from posteriori.distributed.world import current

T = TypeVar("T")


class Turns(Generic[T]):
    """What each of `works` returns, by its number: the processes do neighbouring parts at a time.

    A part does not know how many processes there are, and draws from random numbers of its own; so
    all have the results of one process. `decode` makes texts of the completions in them.
    """

    def __init__(self, works: Sequence[Callable[[], T]], decode: Decode) -> None:
        self._works, self._decode = works, decode
        self._found: dict[int, T] = {}

    def __getitem__(self, number: int) -> T:
        world = current()
        if world is None:
            return self._works[number]()
        if number not in self._found:
            first = number - number % world.size
            mine = first + world.rank
            of_each = gathered(
                lambda: to_bytes(self._works[mine]()) if mine < len(self._works) else b""
            )
            self._found = {
                first + rank: from_bytes(data, self._decode)
                for rank, data in enumerate(of_each)
                if data
            }
        return self._found[number]

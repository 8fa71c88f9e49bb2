"""Requests to a server beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AskedT = TypeVar("AskedT")
FoundT = TypeVar("FoundT")


def beside(ask: Callable[[AskedT], FoundT], asked: Sequence[AskedT], most: int) -> list[FoundT]:
    """The answers in order, with at most so many requests under way."""
    if not asked:
        return []
    with ThreadPoolExecutor(min(most, len(asked))) as pool:
        return list(pool.map(ask, asked))

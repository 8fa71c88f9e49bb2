"""Answers that are kept, so that nothing is scored twice."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from posteriori.core.completions import Completions
from posteriori.core.occurrence import prompt_key
from posteriori.core.protocols import Columns
from posteriori.data.given_numbers import in_short
from posteriori.errors import EvidenceError

_SAME = 1e-4
"""A model's answer to the same text differs by less than this between batches, by rounding."""


class Cache:
    """The answers to the `size` keys that were asked for last."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.hits = 0
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process begins empty."""
        return {"size": self.size, "hits": 0, "_kept": OrderedDict()}

    def answers(
        self,
        keys: Sequence[Hashable],
        ask: Callable[[list[int]], list[Any]],
        keep: Callable[[Any], bool] = lambda _: True,
    ) -> list[Any]:
        """One answer per key; `ask(rows)` is called once, with the first row of each unknown key.

        An answer that `keep` refuses is passed on and forgotten.
        """
        found = {key: self._kept[key] for key in keys if key in self._kept}
        first: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            if key not in found:
                first.setdefault(key, row)
        self.hits += len(keys) - len(first)
        fresh = ask(list(first.values())) if first else []
        for key, answer in zip(first, fresh, strict=True):
            found[key] = answer
        for key in keys:
            if keep(found[key]):
                self._kept[key] = found[key]
                self._kept.move_to_end(key)
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)
        return [found[key] for key in keys]

    def known(self, keys: Sequence[Hashable], most: int) -> list[int]:
        """Rows of at most `most` different keys whose answers are kept."""
        row_of = {key: row for row, key in enumerate(keys) if key in self._kept}
        return sorted(row_of.values())[:most]

    def check(self, keys: Sequence[Hashable], answers: Sequence[Any], name: str) -> None:
        """Raise `EvidenceError` where an answer is not what it was before."""
        for key, answer in zip(keys, answers, strict=True):
            before = self._kept[key]
            if not _same(before, answer):
                raise EvidenceError(
                    f"it returned {in_short(before)} for a completion, and then {in_short(answer)} "
                    "for the same",
                    where=name,
                    hint="evidence has to be a function of the completion: fix its seed, or set "
                    "its temperature to 0",
                )


def completion_keys(completions: Completions, columns: Columns, name: str) -> list[Hashable]:
    """What an answer depends on: the prompt, the completion's ids and its columns, as a digest."""
    prompts = [prompt_key(prompt).encode() for prompt in completions.prompts]
    keys = []
    for row, (prompt, ids) in enumerate(zip(prompts, completions.completion_ids, strict=True)):
        digest = hashlib.sha256(repr((prompt, ids)).encode())
        for column in sorted(columns):
            try:
                digest.update(pickle.dumps((column, columns[column][row])))
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                raise EvidenceError(
                    f"cache=True needs columns that can be pickled, and '{column}' cannot: {error}",
                    where=name,
                    hint="leave the column out, or the cache",
                ) from error
        keys.append(digest.digest())
    return keys


def _same(before: Any, after: Any) -> bool:
    if before is None or after is None:
        return before is after
    try:
        return math.isclose(float(before), float(after), rel_tol=_SAME, abs_tol=_SAME)
    except (TypeError, ValueError):
        return bool(before == after)

"""A deterministic automaton over classes of characters, from a regular expression."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .positions import NotRegularError, Positions, classes_of, places

DEAD, START = 0, 1
MOST_STATES = 4000


@dataclass(frozen=True)
class Automaton:
    """`next_SC[s, c]` is the state after a character of class c in state s; `DEAD` is where nothing
    matches any more. The whole text matches where `accepts_S`. `class_of` knows the characters it
    was made for."""

    next_SC: Tensor
    accepts_S: Tensor
    class_of: dict[str, int]

    @classmethod
    def of(cls, pattern: str, characters: Iterable[str]) -> Automaton:
        """By subsets of positions. Raises `NotRegularError`, also for too many states."""
        positions = Positions.of(pattern)
        known = sorted(set(characters))
        class_of, allowed = classes_of(positions, known)
        # A state is what may come next, and whether the text may end here.
        first = (positions.start, positions.empty)
        number: dict[tuple[int, bool], int] = {(0, False): DEAD, first: START}
        states, rows = [(0, False), first], list[list[int]]()
        for at, (following, _) in enumerate(states):
            row = list[int]()
            for bits in allowed:
                reached = following & bits
                after = 0
                for place in places(reached):
                    after |= positions.follow[place]
                state = (after, bool(reached & positions.ends))
                if state not in number:
                    if len(states) >= MOST_STATES:
                        raise NotRegularError(f"more than {MOST_STATES} states")
                    number[state] = len(states)
                    states.append(state)
                row.append(number[state] if at != DEAD else DEAD)
            rows.append(row)
        return cls(
            torch.tensor(rows, dtype=torch.int32).view(len(rows), len(allowed)),
            torch.tensor([ends for _, ends in states]),
            dict(zip(known, class_of, strict=True)),
        )

    def after(self, text: str) -> int:
        """The state after `text`; `DEAD` too where a character is not known."""
        state = START
        for character in text:
            at = self.class_of.get(character)
            if at is None:
                return DEAD
            state = int(self.next_SC[state, at])
        return state

"""How many tokens a text still needs until a pattern matches all of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .automaton import DEAD, Automaton
from .positions import NotRegularError

NEVER = torch.iinfo(torch.int16).max
_MOST_CELLS = 2**24
"""States times different tokens."""
_REMEMBERED = 10_000


class Closing:
    """For every text that the pattern can begin with: the smallest number of tokens that complete
    it, by a breadth-first search over the automaton with whole tokens as steps.

    Args:
        pattern: a regular expression for the whole text.
        tokens: the text of each token of the vocabulary; None for one that has none, such as the
            end of sequence.

    Raises:
        NotRegularError: for a pattern that is not regular, or too large.
    """

    def __init__(self, pattern: str, tokens: Sequence[str | None]) -> None:
        automaton = Automaton.of(pattern, {c for token in tokens if token for c in token})
        number: dict[tuple[int, ...], int] = {}
        unlike_V = [_number_of(token, automaton, number) for token in tokens]
        states = len(automaton.next_SC)
        if states * len(number) > _MOST_CELLS:
            raise NotRegularError(f"{states} states and {len(number)} different tokens")
        # The last column is of tokens without text, after which nothing is known.
        self._unlike_V = torch.tensor(unlike_V) % (len(number) + 1)
        after_SU = _after_tokens(automaton, list(number))
        needed_S = _fewest_tokens(after_SU, automaton.accepts_S)
        self._needed_SU = needed_S[after_SU.long()].where(after_SU != DEAD, -1)
        self._needed_SU = torch.nn.functional.pad(self._needed_SU, (0, 1), value=-1)
        self._automaton = automaton
        self._states: dict[str, int] = {}

    def too_late(self, texts: Sequence[str], left: int) -> Tensor:
        """Whether the text with the next token v needs more than `left` tokens after it, or can
        never be completed: bool [D, V]. False where the pattern knows no such text."""
        state_D = torch.tensor([self._state(text) for text in texts])
        different_F, place_D = state_D.unique(return_inverse=True)
        late_FU = self._needed_SU[different_F] > left
        return late_FU[:, self._unlike_V][place_D]

    def _state(self, text: str) -> int:
        if text not in self._states:
            if len(self._states) >= _REMEMBERED:
                self._states.clear()
            self._states[text] = self._automaton.after(text)
        return self._states[text]


def _number_of(token: str | None, automaton: Automaton, number: dict[tuple[int, ...], int]) -> int:
    """Tokens whose characters are of the same classes are one; -1 for those without text."""
    if not token:
        return -1
    classes = tuple(automaton.class_of[character] for character in token)
    return number.setdefault(classes, len(number))


def _after_tokens(automaton: Automaton, tokens: Sequence[tuple[int, ...]]) -> Tensor:
    """The state after each different token in each state, int16 [S, U]."""
    next_SC = automaton.next_SC.long()
    states = len(next_SC)
    length_U = torch.tensor([len(classes) for classes in tokens])
    order_U = length_U.argsort(descending=True)
    width = int(length_U.max())
    class_UL = torch.zeros(len(tokens), width, dtype=torch.long)
    for row, at in enumerate(order_U.tolist()):
        class_UL[row, : len(tokens[at])] = torch.tensor(tokens[at])
    state_SU = torch.arange(states)[:, None].repeat(1, len(tokens))
    ordered_U = length_U[order_U]
    for place in range(width):
        # The longest come first, so those that have a character here are the first.
        number = int((ordered_U > place).sum())
        state_SU[:, :number] = next_SC[state_SU[:, :number], class_UL[:number, place]]
    after_SU = torch.empty(states, len(tokens), dtype=torch.int16)
    after_SU[:, order_U] = state_SU.to(torch.int16)
    return after_SU


def _fewest_tokens(after_SU: Tensor, accepts_S: Tensor) -> Tensor:
    """The fewest tokens from each state to one that accepts, int16 [S]; `NEVER` if there is no
    way."""
    states = len(after_SU)
    needed_S = torch.full((states,), NEVER, dtype=torch.int16)
    needed_S[accepts_S] = 0
    edge_E = torch.cat([s * states + after_SU[s].long().unique() for s in range(states)])
    from_E, to_E = edge_E // states, edge_E % states
    for number in range(1, states):
        # Those that reach what was found in the round before, and were not found yet.
        found_E = (needed_S[to_E] == number - 1) & (needed_S[from_E] == NEVER)
        if not bool(found_E.any()):
            break
        needed_S[from_E[found_E]] = number
    return needed_S

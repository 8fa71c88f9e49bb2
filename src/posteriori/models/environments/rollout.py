"""Episodes, turn by turn: the language model draws one, the environment answers, and so on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import LanguageModel
from posteriori.core.tensors import ints

from .asking import ask
from .episode import Environment, Episode, Reply
from .reply_tokens import reply_ids


@dataclass(frozen=True)
class Rules:
    """How episodes go: who answers, for how many turns at most, and whether replies are random."""

    environment: Environment
    max_turns: int
    deterministic: bool


def play(
    lm: LanguageModel, rules: Rules, begun: Completions, generator: torch.Generator | None
) -> Completions:
    """Episodes from these, which end with a turn or are cut at `max_new_tokens`, to their ends."""
    board = _Board.of(begun)
    over_N = torch.zeros_like(begun.ended_N)
    while True:
        # In an episode of as many tokens as there may be, nothing that is said has room.
        room_N = board.lengths_N < begun.max_new_tokens
        few_N = torch.tensor([len(said) + 1 < rules.max_turns for said in board.replies])
        waiting = (board.ended_N & ~over_N & room_N & few_N.to(over_N.device)).nonzero()[:, 0]
        if not len(waiting):
            return board.completions
        episodes = _episodes(board.completions.select(waiting), rules, generator)
        replies = ask(rules.environment, episodes, rules.deterministic)
        said = [row for row, reply in enumerate(replies) if reply is not None]
        going_on = waiting[said]
        over_N[waiting] = True
        over_N[going_on] = False
        if not said:
            return board.completions
        board.say(lm, ints(going_on), [reply for reply in replies if reply is not None])
        room = going_on[board.lengths_N[going_on] < begun.max_new_tokens]
        if len(room):
            some = board.completions.select(room)
            board.put(room, lm.resample_suffix(some, some.lengths_N, generator))


def _episodes(ended: Completions, rules: Rules, generator: torch.Generator | None) -> list[Episode]:
    assert ended.replies is not None, "a board has them"
    seeds = [0] * len(ended)
    if not rules.deterministic:
        seeds = ints(torch.randint(2**62, (len(ended),), generator=generator))
    parts = zip(ended.prompts, ended.turns, ended.replies, seeds, strict=True)
    return [Episode(prompt, tuple(turns), replies, seed) for prompt, turns, replies, seed in parts]


class _Board:
    """All episodes, at full width, to be written to row by row."""

    def __init__(self, completions: Completions) -> None:
        assert completions.own_NL is not None
        assert completions.replies is not None
        assert completions.token_log_prob_NL is not None, "a sampler returns its draws' log-probs"
        self._first = completions
        wide = completions.max_new_tokens - completions.tokens_NL.shape[1]
        pad = torch.nn.functional.pad
        self.tokens_NT = pad(completions.tokens_NL, (0, wide))
        self.own_NT = pad(completions.own_NL, (0, wide))
        self.log_prob_NT = pad(completions.token_log_prob_NL, (0, wide))
        self.lengths_N, self.ended_N = completions.lengths_N.clone(), completions.ended_N.clone()
        self.replies: list[tuple[Reply, ...]] = list(completions.replies)

    @classmethod
    def of(cls, begun: Completions) -> _Board:
        """First turns are all the model's own, and nothing has been said."""
        if begun.own_NL is None:
            begun = replace(begun, own_NL=begun.mask_NL, replies=((),) * len(begun))
        return cls(begun)

    @property
    def completions(self) -> Completions:
        width = max(int(self.lengths_N.max()), 1)
        return replace(
            self._first,
            tokens_NL=self.tokens_NT[:, :width],
            own_NL=self.own_NT[:, :width],
            token_log_prob_NL=self.log_prob_NT[:, :width],
            lengths_N=self.lengths_N.clone(),
            ended_N=self.ended_N.clone(),
            replies=tuple(self.replies),
        )

    def say(self, lm: LanguageModel, rows: Sequence[int], replies: Sequence[Reply]) -> None:
        """Put a reply behind the turn of each row; what has no room is cut."""
        prompts = self._first.prompts
        for row, reply in zip(rows, replies, strict=True):
            start = int(self.lengths_N[row])
            ids = reply_ids(lm, prompts[row], reply)[: self.tokens_NT.shape[1] - start]
            end = start + len(ids)
            self.tokens_NT[row, start:end] = torch.tensor(ids, device=self.tokens_NT.device)
            self.own_NT[row, start:end] = False
            self.lengths_N[row], self.ended_N[row] = end, False
            self.replies[row] = (*self.replies[row], reply)

    def put(self, rows: Tensor, drawn: Completions) -> None:
        """One more turn in each of these rows."""
        assert drawn.token_log_prob_NL is not None, "a sampler returns its draws' log-probs"
        wide = self.tokens_NT.shape[1] - drawn.tokens_NL.shape[1]
        pad = torch.nn.functional.pad
        column_T = torch.arange(self.tokens_NT.shape[1], device=self.tokens_NT.device)
        fresh_NT = column_T >= self.lengths_N[rows, None]
        self.tokens_NT[rows] = pad(drawn.tokens_NL, (0, wide))
        self.log_prob_NT[rows] = pad(drawn.token_log_prob_NL, (0, wide))
        inside_NT = column_T < drawn.lengths_N[:, None]
        self.own_NT[rows] = torch.where(fresh_NT, inside_NT, self.own_NT[rows])
        self.lengths_N[rows], self.ended_N[rows] = drawn.lengths_N, drawn.ended_N

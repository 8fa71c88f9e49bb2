"""Draws of earlier steps, kept to join later ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from posteriori.core.completions import Completions
from posteriori.core.occurrence import marked, place_of, plain
from posteriori.core.types import Draws

Decode = Callable[[list[list[int]]], list[str]]


class Replay:
    """The draws of the last `size` steps. They come with what the target said of them, so using
    them again costs no sampling, no prior and no evidence; only log pi has changed since."""

    def __init__(self, size: int) -> None:
        self._kept: deque[Draws] = deque(maxlen=size)

    def joined_by(self, fresh: Draws) -> Draws:
        """The fresh draws, followed by the kept ones, newest first."""
        return Draws.concat([fresh, *self._kept]) if self._kept else fresh

    def keep(self, fresh: Draws) -> None:
        self._kept.appendleft(fresh)

    @property
    def newest(self) -> Draws | None:
        return self._kept[0] if self._kept else None

    def state_dict(self) -> list[dict[str, Any]]:
        """What a checkpoint needs: tensors and plain values only."""
        return [_packed(draws) for draws in self._kept]

    def load_state_dict(self, state: list[dict[str, Any]], decode: Decode) -> None:
        self._kept.clear()
        self._kept.extend(_unpacked(each, decode) for each in state)


_COMPLETIONS = (
    "prompt_index_N",
    "tokens_NL",
    "lengths_N",
    "ended_N",
    "max_new_tokens",
    "token_log_prob_NL",
    "own_NL",
    "replies",
)
_DRAWS = (
    "log_proposal_N",
    "log_prior_N",
    "log_evidence_N",
    "reward_N",
    "token_log_prior_NL",
    "log_weight_N",
)


def _packed(draws: Draws) -> dict[str, Any]:
    completions = draws.completions
    return {
        "prompt_set": [plain(prompt) for prompt in completions.prompt_set],
        "prompt_rows": [place_of(prompt) for prompt in completions.prompt_set],
        "prompt_ids": [list(ids) for ids in completions.prompt_ids],
        **{name: vars(completions)[name] for name in _COMPLETIONS},
        **{name: vars(draws)[name] for name in _DRAWS},
        "attached": dict(draws.attached),
    }


def _unpacked(state: dict[str, Any], decode: Decode) -> Draws:
    # Checkpoints of 0.2.0 and before know of no environment.
    state = {"own_NL": None, "replies": None, **state}
    completions = Completions(
        prompt_set=tuple(
            prompt if row is None else marked(prompt, row)
            for prompt, row in zip(state["prompt_set"], state["prompt_rows"], strict=True)
        ),
        prompt_ids=tuple(tuple(ids) for ids in state["prompt_ids"]),
        decode=decode,
        **{name: state[name] for name in _COMPLETIONS},
    )
    return Draws(
        completions=completions,
        attached=state["attached"],
        **{name: state[name] for name in _DRAWS},
    )

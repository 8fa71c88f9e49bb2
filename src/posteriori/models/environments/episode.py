"""What an environment receives, and what it may return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from posteriori.core.occurrence import Prompt

Reply: TypeAlias = "str | Sequence[int] | Sequence[Mapping[str, Any]]"
"""A text, token ids as they are, or messages of a conversation."""


@dataclass(frozen=True)
class Episode:
    """What has happened so far, up to a turn of the policy that has just ended.

    Args:
        prompt: what the episode began with.
        turns: the policy's turns as text, without special tokens; at least one.
        replies: what the environment said after each turn but the last.
        seed: of the reply's own randomness: a function of the run's seed.

    Example:
        >>> po.Episode("Hello", turns=(" hi",), replies=(), seed=0).turns[-1]
        ' hi'
    """

    prompt: Prompt
    turns: tuple[str, ...]
    replies: tuple[Reply, ...]
    seed: int


class Environment(Protocol):
    """Answers turns: any function from a list of episodes to a reply for each.

    None ends the episode. Everything random in a reply has to come from `Episode.seed`. A reply is
    a string (behind a conversation: a message of the user's), messages, or token ids.

    Example:
        >>> def echo(episodes):
        ...     return [None if len(e.turns) == 2 else f" You said{e.turns[-1]}." for e in episodes]
        >>> echo([po.Episode("Hello", (" hi",), (), seed=0)])
        [' You said hi.']
    """

    def __call__(self, episodes: list[Episode], /) -> Sequence[Reply | None]: ...

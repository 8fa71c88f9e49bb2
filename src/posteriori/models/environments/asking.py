"""Asking an environment, and checking what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posteriori.distributed.exchange import by_rows
from posteriori.errors import EnvironmentCallError

from .episode import Environment, Episode, Reply


def ask(
    environment: Environment, episodes: Sequence[Episode], deterministic: bool
) -> list[Reply | None]:
    """A reply to each; equal episodes are asked once where the reply hangs on nothing else.

    Each process asks for its share. Raises `EnvironmentCallError` where the environment raises, or
    answers in another form.
    """
    asked = list(episodes)
    place = list(range(len(asked)))
    if deterministic:
        keys = [repr((each.prompt, each.turns, each.replies)) for each in asked]
        distinct = dict(zip(keys, asked, strict=True))
        number = {key: at for at, key in enumerate(distinct)}
        place, asked = [number[key] for key in keys], list(distinct.values())
    parts = by_rows(len(asked), lambda share: _ask_some(environment, asked[share]))
    replies = [reply for part in parts for reply in part]
    return [replies[at] for at in place]


def _ask_some(environment: Environment, episodes: list[Episode]) -> list[Reply | None]:
    name = getattr(environment, "__name__", type(environment).__name__)
    where = f"environment '{name}'"
    try:
        answer = environment(list(episodes))
    except Exception as error:  # whatever a user's code raises becomes one typed error
        raise EnvironmentCallError(
            f"it raised {type(error).__name__}: {error}",
            where=where,
            hint=f"the call was for {len(episodes)} episodes; an environment returns None to end "
            "one",
        ) from error
    if isinstance(answer, str) or not isinstance(answer, Sequence) or len(answer) != len(episodes):
        size = f" of {len(answer)}" if isinstance(answer, Sequence) else ""
        raise EnvironmentCallError(
            f"it returned {type(answer).__name__}{size} for {len(episodes)} episodes",
            where=where,
            hint="return a list with one reply, or None, for each episode",
        )
    return [_checked(reply, where) for reply in answer]


def _checked(reply: Any, where: str) -> Reply | None:
    if reply is None or isinstance(reply, str):
        return reply
    if isinstance(reply, Sequence):
        kinds = [isinstance(each, Mapping) for each in reply]
        if reply and all(kinds):
            return [dict(each) for each in reply]
        if not any(kinds) and all(isinstance(each, int) for each in reply):
            return [int(each) for each in reply]
    raise EnvironmentCallError(
        f"the reply {reply!r:.60} is no text, no list of messages and no list of token ids",
        where=where,
        hint='return a string, [{"role": "user", "content": "..."}], token ids, or None',
    )

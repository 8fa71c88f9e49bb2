"""The target that demonstrations are outcomes of: the prior, on their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posteriori.core.hooks import context_of
from posteriori.core.occurrence import prompt_key
from posteriori.core.protocols import LanguageModel
from posteriori.core.target import Target
from posteriori.data.demonstrations import Demonstration
from posteriori.models.tabular import TabularLM
from posteriori.objectives.imitation.sft import tokenised

_LONGEST = 4096
"""Tokens of a completion of a model that does not say how much its context holds."""


def demonstrated_target(
    lm: LanguageModel, rows: Sequence[Demonstration], max_new_tokens: int | None = None
) -> Target:
    """The prior on each prompt once; left out, `max_new_tokens` is the longest completion's."""
    prompts: list[Any] = list({prompt_key(each.prompt): each.prompt for each in rows}.values())
    if max_new_tokens is None:
        depth = lm.max_new_tokens if isinstance(lm, TabularLM) else context_of(lm)
        widest = Target(lm, [], prompts, depth or _LONGEST)
        max_new_tokens = int(tokenised(rows, widest, 0).all.lengths_N.max())
    return Target(lm, [], prompts, max_new_tokens)
